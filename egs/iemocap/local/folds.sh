#!/usr/bin/env bash
# All five folds, each session once the test set, and the mean of their accuracies, which is what SUPERB reports.
#
#   local/folds.sh --corpus-dir /corpora/IEMOCAP                       any option of run.sh; into data/fold1 ... exp/fold5
#   PARAMS="dev=session" local/folds.sh --corpus-dir /corpora/IEMOCAP  with options of the corpus
#   local/folds.sh --mini true                                         into data/mini/fold1 ... exp/mini/fold5
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../../../utils/path.sh
. ../../utils/path.sh
ensure_environment

below=""
if [[ " $* " =~ \ --mini[=\ ]true\  ]]; then below=mini/; fi
read -ra params <<<"${PARAMS-}"
for fold in 1 2 3 4 5; do
    ./run.sh "$@" --data-dir "data/${below}fold$fold" --exp-dir "exp/${below}fold$fold" \
        --prepare-args "--param fold=$fold ${params[*]-}"
done
python local/mean.py "exp/$below"fold{1,2,3,4,5}
