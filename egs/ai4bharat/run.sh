#!/usr/bin/env bash
# Hindi, Punjabi, Telugu and Italian: one adapter for each from Kathbath, IndicVoices, Shrutilipi, Common Voice and MLS, merged.
#
#   ./run.sh --mini true                            a spoken miniature and the small base: everything in minutes, offline
#   ./run.sh --corpus-dir /corpora                  /corpora/<source>/<as published>, see README.md
#   ./run.sh --tasks "hi" --prepare-args "--param text=plain sources=kathbath,common_voice"
#   ./run.sh --help                                 all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=ai4bharat
    tasks="hi pa te it" # languages: data/<language>/<split>
    task=asr
    model=openai/whisper-small
    splits="dev test" # the report names the merge that is best on dev
    merges="uniform ties"
    routers=languages # systems languages-hard, languages-soft, ...: conf/route/languages.yaml
    prepare_args="--param text=plain" # sources differ in punctuation and case; one adapter learns one form
}

. "$root/utils/run.sh"
