#!/usr/bin/env bash
# Accuracy, unweighted average recall, macro F1, confusions of plain files with lines `id label`; of folds: mean and pooled.
# usage: utils/score_cls.sh REF HYP [REF HYP ...] [--labels FILE] [--utt2spk FILE]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 2 "$@"
refs=() hyps=()
while (($# > 1)) && [[ $1 != --* ]]; do
    refs+=("$1") hyps+=("$2")
    shift 2
done
exec python -m speechmerge score-files --task intent --ref "${refs[@]}" --hyp "${hyps[@]}" "$@"
