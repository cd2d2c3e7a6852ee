#!/usr/bin/env bash
# IEMOCAP: emotions in acted English dialogues, 12 hours, ten speakers in five sessions (USC SAIL, release form).
#
#   ./run.sh --corpus-dir /corpora/IEMOCAP                 fold 1: session 1 is the test set
#   local/folds.sh --corpus-dir /corpora/IEMOCAP           all five folds and their mean
#   ./run.sh --mini true                                   a spoken miniature, nothing needed
#   ./run.sh --help                                        all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=iemocap
    corpus_dir=downloads/iemocap
    tasks=emotion
    model=openai/whisper-small
    merges="" # one adapter; egs/mini and merge.sh merge those of several recipes
}

. "$root/utils/run.sh"
