#!/usr/bin/env bash
# F1 and exact match (SQuAD v1.1) of a SQuAD json and predictions {"question id": "answer"}; a table on stdout.
# usage: utils/score_qa.sh DATA.json PREDICTIONS.json
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
exec python -m speechmerge score-files --task speech_qa --ref "$1" --hyp "$2" "${@:3}"
