#!/usr/bin/env bash
# Scenario, action, intent, entity F1, word-F1, char-F1 and SLU-F1 of SLURP's GOLD.jsonl and predictions; a table on stdout.
# usage: utils/score_slu.sh GOLD.jsonl PRED.jsonl [--load-gold] [--skip-missing true] (leaves out what has no prediction)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
exec python -m speechmerge score-files --task slu --ref "$1" --hyp "$2" "${@:3}"
