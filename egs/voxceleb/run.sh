#!/usr/bin/env bash
# VoxCeleb1: 1251 celebrities in interviews, identified (speaker_id) and verified by pairs (speaker_ver); CC BY 4.0.
#
#   ./run.sh --corpus-dir /corpora/voxceleb1               both tasks
#   ./run.sh --tasks speaker_ver --prepare-args "--param trials=O-cleaned same_gender=true"
#   ./run.sh --mini true                                   a spoken miniature, nothing needed
#   ./run.sh --help                                        all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=voxceleb
    corpus_dir=downloads/voxceleb
    tasks="speaker_id speaker_ver"
    model=openai/whisper-small
    merges="" # or --merges "uniform ties": both adapters in one
}

. "$root/utils/run.sh"
