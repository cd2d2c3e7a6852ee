#!/usr/bin/env bash
# Repair data directories (order, line ends, duplicates, id sets, unusable audio); the old tables go to DIR/.backup.
# usage: utils/fix_data_dir.sh DIR [DIR ...] [--audio false] [--allow-pipes true] [--nj 2]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 1 "$@"
exec python -m speechmerge validate --fix true --data "$@"
