#!/usr/bin/env bash
# CoVoST 2: speech translation, 21 languages into English and English into 15 (with Common Voice 4, CC0).
#
#   ./run.sh --mini true                            a spoken miniature and the small base: everything in minutes, offline
#   ./run.sh --corpus-dir /corpora/covost           it_en; /corpora/covost/cv-corpus-4-2019-12-10/it/{validated.tsv,clips}
#   ./run.sh --prepare-args "--param pair=en_zh-CN common_voice=/corpora/cv4"
#   ./run.sh --task st --tasks "it_en de_en"        one adapter per pair
#   ./run.sh --source hf --prepare-args "--param pair=it_en"      fixie-ai/covost2, no Common Voice needed
#   ./run.sh --help                                 all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=covost2
    tasks=st
    model=openai/whisper-small
    merges="" # of several pairs: --task st --tasks "it_en de_en" --merges "uniform ties"
}

. "$root/utils/run.sh"
