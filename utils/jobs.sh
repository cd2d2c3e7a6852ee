#!/usr/bin/env bash
# What the cells of a grid are at: done, running, pending, failed, missing, from their files and the cluster's queue.
# usage: utils/jobs.sh conf/grid/FILE.yaml [--phases train] [--param exp_dir=exp/other]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 1 "$@"
exec python -m speechmerge grid --action states --grid "$@"
