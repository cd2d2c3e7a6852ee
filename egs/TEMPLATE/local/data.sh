#!/usr/bin/env bash
# Stage 1 of a corpus without a module in speechmerge/corpora: makes data/<task>/{train,dev,test} (see README.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
until [[ -z $root || -e $root/utils/parse_options.sh ]]; do root=${root%/*}; done
. "$root/utils/parse_options.sh"

option data_dir path data "where the data directories are written"
option corpus_dir path "" "where the corpus lies"
option nj int+ 2 "parallel jobs"
parse_options "$@"

# Write the tables here, from $corpus_dir, with whatever you like. Until then they are expected to be there.
# shellcheck disable=SC2154 # options are variables
if ! compgen -G "$data_dir/*/train/wav.scp" >/dev/null; then
    echo "local/data.sh: no $data_dir/<task>/train/wav.scp: write the tables by hand or let this script make them (README.md)" >&2
    exit 1
fi
