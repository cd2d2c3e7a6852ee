#!/usr/bin/env bash
# Check data directories, tables and audio: one line per finding, with what mends it; exit status 1 where there are any.
# usage: utils/validate_data_dir.sh DIR [DIR ...] [--audio false] [--allow-pipes true] [--nj 2]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
help_or_go 1 "$@"
exec python -m speechmerge validate --data "$@"
