#!/usr/bin/env bash
# LibriSpeech: read English audiobooks, 100 to 960 hours (OpenSLR 12 and 31, CC BY 4.0), fetched where it is not there.
#
#   ./run.sh --mini true                            a spoken miniature and the small base: everything in minutes, offline
#   ./run.sh --corpus-dir /corpora                  /corpora/LibriSpeech/<subset>/...
#   ./run.sh --prepare-args "--param train=train-clean-5 dev=dev-clean-2 test=dev-clean-2"     mini LibriSpeech, 5 hours
#   ./run.sh --help                                 all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=librispeech
    tasks=asr
    model=openai/whisper-small
    merges="" # one task: its adapter is merged with those of other recipes, see utils/merge.sh
}

. "$root/utils/run.sh"
