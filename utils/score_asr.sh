#!/usr/bin/env bash
# WER and CER of plain files with lines `id words`, and their errors; a table on stdout.
# usage: utils/score_asr.sh REF HYP [--normaliser basic|english|indic|none] [--lang CODE] [--utt2spk FILE] [--utt2lang FILE]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
exec python -m speechmerge score-files --task asr --ref "$1" --hyp "$2" "${@:3}"
