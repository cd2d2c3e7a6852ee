#!/usr/bin/env bash
# All tests; sets up the environment on first use. Arguments go to pytest:  tests/run.sh -k merge -x   tests/run.sh -m "not slow"
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../utils/path.sh"
cd "$SPEECHMERGE_ROOT"
ensure_environment
exec python -m pytest "$@"
