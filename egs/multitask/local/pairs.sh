#!/usr/bin/env bash
# What does merging cost each of the miniatures' adapters, and do their weights tell? All pairs of 24 adapters of nine recipes
# on the mini base: egs/mini/run.sh, then run.sh --mini true of the others, then this. Some ten minutes on one core.
#   local/pairs.sh                                        # exp/pairs/analysis/prediction/analysis.json, pictures, a table
#   local/pairs.sh --options "{cost: metric}" --output-dir exp/pairs/analysis/metric      # more arguments are those of analyze
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../../../utils/path.sh
. ../../utils/path.sh
ensure_environment

exp=exp/pairs
mkdir -p "$exp/data"
names=() folders=()

add() { # name of adapter and set, adapter, data
    if [[ ! -e $2/done.json ]]; then
        echo "pairs.sh: there is no adapter $2: train it with ${2%%/exp/*}/run.sh (--mini true, but for egs/mini)" >&2
        exit 1
    fi
    names+=("$1")
    folders+=("$2")
    ln -sfn "$PWD/$3" "$exp/data/$1"
}

for task in asr kws intent emotion langid speaker_id speaker_ver; do
    add "mini_$task" "../mini/exp/$task/lora" "../mini/data/$task"
done
for pair in iemocap:emotion slurp:intent slurp:slu speech_commands:kws fleurs:langid voxceleb:speaker_id voxceleb:speaker_ver \
    librispeech:asr tedlium:asr covost2:st spoken_squad:speech_qa; do
    recipe=${pair%:*} task=${pair#*:}
    add "${recipe}_$task" "../$recipe/exp/mini/$task/lora" "../$recipe/data/mini/$task"
done
for pair in ai4bharat:hi ai4bharat:pa ai4bharat:te ai4bharat:it fleurs:hi_in fleurs:it_it; do
    recipe=${pair%:*} language=${pair#*:}
    add "${recipe}_$language" "../$recipe/exp/mini/asr/$language" "../$recipe/data/mini/$language"
done
python -m speechmerge collect --adapters "${folders[@]}" --names "${names[@]}" --exp-dir "$exp"
python -m speechmerge analyze --config ../../conf/analyze/prediction.yaml --options "{max_samples: 40}" --adapters "${names[@]}" \
    --model ../mini/base --data "$exp/data" --exp-dir "$exp" --output-dir "$exp/analysis/prediction" "$@"
