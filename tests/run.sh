#!/usr/bin/env bash
# All tests; sets up the environment on first use. Arguments go to pytest:  tests/run.sh -k merge -x   tests/run.sh -m "not slow"
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../utils/path.sh"
cd "$SPEECHMERGE_ROOT"
ensure_environment
if [[ ${ESPNET-} != false ]] && ! python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("espnet2"))'; then
    # for the tests of OWSM; ESPNET=false tests/run.sh leaves them out
    tools/install_espnet.sh || echo "tests/run.sh: ESPnet could not be installed (above), the tests of OWSM are skipped" >&2
fi
export OMP_NUM_THREADS=1 # the tests themselves run side by side
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
