#!/usr/bin/env bash
# BLEU with its signature and chrF (sacreBLEU) of plain files with lines `id text`; a table on stdout.
# usage: utils/score_st.sh REF HYP [--target-lang CODE] [--bleu-tokenizer NAME] [--utt2spk FILE]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
exec python -m speechmerge score-files --task st --ref "$1" --hyp "$2" "${@:3}"
