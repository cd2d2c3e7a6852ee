#!/usr/bin/env bash
# EER, minDCF of TRIALS (`trial enrol test target|nontarget` or `1|0 enrol test`) and SCORES (`trial number`); a table on stdout.
# usage: utils/score_sv.sh TRIALS SCORES
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
exec python -m speechmerge score-files --task speaker_ver --ref "$1" --scores "$2" "${@:3}"
