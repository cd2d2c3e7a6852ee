#!/usr/bin/env bash
# Asterisk's telephone prompts: human speech in five languages, OpenAI's whisper-base, one LoRA for each of four, merged.
#
#   ./run.sh                                    everything; hours on two CPU cores, minutes on a GPU
#   ./run.sh --tasks "it fr"                    two of the languages
#   ./run.sh --stage merge                      other merges of the same adapters (conf/merge)
#   ./run.sh --help                             all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=asterisk
    corpus_dir=downloads/asterisk
    tasks="it es fr ru en"   # languages: data/<language>/<split>
    adapters="it es fr ru"   # English is only tested: what becomes of what the base knows
    task=asr
    model=downloads/models/whisper-base # made by local/download.sh
    merges="uniform sum_0.4 sum_1.0 ties learned"
    routers=languages # systems languages-hard, languages-soft, ...: conf/route/languages.yaml
    sweeps=uniform_scalar
    analyses="weights subspaces spectra representations transfer families layers probing errors"
    prepare_args="--param max_seconds=15" # a few long menus would take a third of the time
}

. "$root/utils/run.sh"
