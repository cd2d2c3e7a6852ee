#!/usr/bin/env bash
# Merges adapters that several recipes have trained on one base.
#
#   ./merge.sh                                everything
#   ./merge.sh --adapters "../mini/exp/asr/lora ../mini/exp/kws/lora" --tasks "asr kws" --data-dirs ../mini/data
#   ./merge.sh --help                         all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/merge.sh ]]; do root=${root%/*}; done

defaults() {
    adapters="../mini/exp/asr/lora ../mini/exp/kws/lora ../mini/exp/intent/lora"
    tasks="asr kws intent"
    data_dirs=../mini/data # or one for each task
    model=../mini/base
    merges="uniform ties"
    exp_dir=exp/merge
}

. "$root/utils/merge.sh"
