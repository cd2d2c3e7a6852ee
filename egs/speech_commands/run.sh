#!/usr/bin/env bash
# Speech Commands 0.02 or 0.01: single English words by thousands of people (CC BY 4.0), fetched where it is not there.
#
#   ./run.sh --mini true                                        a spoken miniature and the small base, offline
#   ./run.sh --prepare-args "--param version=v1 unknown=all"    SUPERB's task: 0.01, twelve classes
#   ./run.sh --prepare-args "--param classes=35"                all words
#   ./run.sh --help                                             all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=speech_commands
    tasks=kws
    model=openai/whisper-small
    merges="" # one task: its adapter is merged with those of other recipes, see utils/merge.sh
}

. "$root/utils/run.sh"
