#!/usr/bin/env bash
# SLURP: commands to a home assistant, intents and entities; and Speech-MASSIVE, the same in twelve languages.
#
#   ./run.sh --mini true                            a spoken miniature and the small base: everything in minutes, offline
#   ./run.sh --corpus-dir /corpora/slurp            the publisher's repository with audio/; what is missing is fetched (4 GB)
#   ./run.sh --prepare-args "--param recordings=best train=train,train_synthetic"
#   ./run.sh --corpus speech_massive --source hf --prepare-args "--param locale=fr-FR" --data-dir data/fr --exp-dir exp/fr
#   ./run.sh --help                                 all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=slurp
    tasks="intent slu"
    model=openai/whisper-small
    merges="" # --merges "uniform ties" merges the two adapters; those of other recipes: utils/merge.sh
}

. "$root/utils/run.sh"
