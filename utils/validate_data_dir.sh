#!/usr/bin/env bash
# Check data directories, tables and audio: one line per finding, with what mends it; exit status 1 where there are any.
# usage: utils/validate_data_dir.sh DIR [DIR ...] [--audio false] [--nj 2]
set -euo pipefail
case ${1-} in
    "" | -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
esac
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
ensure_environment
exec python -m speechmerge validate --data "$@"
