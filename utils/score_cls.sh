#!/usr/bin/env bash
# Accuracy, unweighted average recall, macro F1 and confusions of plain files with lines `id label`; a table on stdout.
# usage: utils/score_cls.sh REF HYP [--labels FILE] [--utt2spk FILE]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
exec python -m speechmerge score-files --task intent --ref "$1" --hyp "$2" "${@:3}"
