#!/usr/bin/env bash
# Speech of seven tasks in seven languages, spoken by espeak-ng; runs offline on two CPU cores.
#
#   ./run.sh                                  everything
#   ./run.sh --stage train --stop-stage 5     some stages
#   ./run.sh --tasks "asr kws" --seed 2       other tasks, another draw
#   ./run.sh --help                           all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/run.sh ]]; do root=${root%/*}; done

defaults() {
    corpus=mini
    tasks="asr kws intent emotion langid speaker_id speaker_ver"
    model=base # shipped with the recipe, see base/README.md
    splits="dev test" # the report names the merge that is best on dev
    merges="uniform sum_0.3 sum_0.5 sum_1.0 weighted ties dare"
    analyses="weights subspaces spectra representations transfer layers errors" # ./run.sh --stage analyze
}

. "$root/utils/run.sh"
