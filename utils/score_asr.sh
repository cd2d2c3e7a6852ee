#!/usr/bin/env bash
# WER and CER of plain files with lines `id words`, and their errors; a table on stdout.
# usage: utils/score_asr.sh REF HYP [--normaliser basic|english|none] [--utt2spk FILE] [--utt2lang FILE]
set -euo pipefail
case ${1-} in
    "" | -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
esac
if [ $# -lt 2 ]; then sed -n '3s/^# //p' "${BASH_SOURCE[0]}" >&2 && exit 2; fi
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
ensure_environment
exec python -m speechmerge score-files --task asr --ref "$1" --hyp "$2" "${@:3}"
