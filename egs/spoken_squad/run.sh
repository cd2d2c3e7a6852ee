#!/usr/bin/env bash
# Spoken-SQuAD: written questions about paragraphs read aloud (Lee et al. 2018).
#
#   ./run.sh --mini true                            a spoken miniature and the small base: everything in minutes, offline
#   ./run.sh --corpus-dir /corpora/Spoken-SQuAD     spoken_*.json and wav/{train,test}, see README.md
#   ./run.sh --help                                 all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=spoken_squad
    tasks=speech_qa
    model=openai/whisper-small
    merges="" # one task: its adapter is merged with those of other recipes, see utils/merge.sh
}

. "$root/utils/run.sh"
