#!/usr/bin/env bash
# Accuracy, unweighted average recall, macro F1 and confusions of plain files with lines `id label`; a table on stdout.
# usage: utils/score_cls.sh REF HYP [--labels FILE] [--utt2spk FILE]
set -euo pipefail
case ${1-} in
    "" | -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
esac
if [ $# -lt 2 ]; then sed -n '3s/^# //p' "${BASH_SOURCE[0]}" >&2 && exit 2; fi
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
ensure_environment
exec python -m speechmerge score-files --task intent --ref "$1" --hyp "$2" "${@:3}"
