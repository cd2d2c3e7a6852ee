#!/usr/bin/env bash
# <corpus>: <what is spoken, by whom, how much, licence>.
#
#   ./run.sh                                  everything
#   ./run.sh --stage train --stop-stage 5     some stages
#   ./run.sh --help                           all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() { # any option of --help; what is derived from them follows, so that --tasks on the command line changes everything
    corpus="" # a name of `speechmerge list corpora`, or a reader of yours, local/corpus.py; empty: local/data.sh makes data/
    tasks="asr intent"
    model=openai/whisper-base # or a folder
    merges="uniform ties"
}

. "$root/utils/run.sh"
