#!/usr/bin/env bash
# EER and minDCF of TRIALS (`trial enrol test target|nontarget`) and SCORES (`trial number`); a table on stdout.
# usage: utils/score_sv.sh TRIALS SCORES
set -euo pipefail
case ${1-} in
    "" | -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
esac
if [ $# -lt 2 ]; then sed -n '3s/^# //p' "${BASH_SOURCE[0]}" >&2 && exit 2; fi
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
ensure_environment
exec python -m speechmerge score-files --task speaker_ver --ref "$1" --scores "$2" "${@:3}"
