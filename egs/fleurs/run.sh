#!/usr/bin/env bash
# FLEURS: sentences read in 102 languages, about 10 hours each, for language identification and recognition; CC BY 4.0.
#
#   ./run.sh                                                             langid over 102 languages: 300 GB are fetched
#   ./run.sh --prepare-args "--languages en_us,hi_in,it_it"              langid over three
#   ./run.sh --task asr --tasks "hi_in pa_in te_in"                      recognition, an adapter for each language
#   ./run.sh --mini true                                                 a spoken miniature, nothing needed
#   ./run.sh --help                                                      all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=fleurs
    corpus_dir=downloads/fleurs
    tasks=langid
    model=openai/whisper-small
    merges="" # with several languages of asr: --merges "uniform ties"
}

. "$root/utils/run.sh"
