#!/usr/bin/env bash
# Repair data directories (order, line ends, duplicates, id sets, unusable audio); the old tables go to DIR/.backup.
# usage: utils/fix_data_dir.sh DIR [DIR ...] [--audio false] [--nj 2]
set -euo pipefail
case ${1-} in
    "" | -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
esac
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
ensure_environment
exec python -m speechmerge validate --fix true --data "$@"
