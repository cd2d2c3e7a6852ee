#!/usr/bin/env bash
# TED-LIUM 3: TED talks in English, 452 hours (OpenSLR 51, CC BY-NC-ND 3.0), fetched where it is not there (54 GB).
#
#   ./run.sh --mini true                            a spoken miniature and the small base: everything in minutes, offline
#   ./run.sh --corpus-dir /corpora                  /corpora/TEDLIUM_release-3/...
#   ./run.sh --format-args "--hours train=50"       fifty hours of it
#   ./run.sh --help                                 all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=tedlium
    tasks=asr
    model=openai/whisper-small
    merges="" # one task: its adapter is merged with those of other recipes, see utils/merge.sh
}

. "$root/utils/run.sh"
