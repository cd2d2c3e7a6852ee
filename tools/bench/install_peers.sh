#!/usr/bin/env bash
# Makes tools/bench/.venv: the project as tools/setup.sh installs it, and the peers it is measured against, at the
# versions of tools/bench/requirements.txt. Safe to repeat; does nothing when all is there.
#
#   tools/bench/install_peers.sh
#   TORCH="torch==2.13.0" PYTHON=python3.11 tools/bench/install_peers.sh    # the words that tools/setup.sh understands
#   BENCH_VENV=/scratch/bench-venv tools/bench/install_peers.sh             # elsewhere; then run its bin/python
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
venv=${BENCH_VENV:-$here/.venv}
stamp=$venv/peers.done # holds the requirements that were installed, and is written last

say() { printf 'install_peers: %s\n' "$*" >&2; }

wanted() { cat -- "$root/setup.py" "$here/requirements.txt"; }

check() { # what is installed answers, from elsewhere than the checkout
    (cd "$venv" && bin/python - <<'PYTHON')
import importlib, importlib.metadata as metadata
for name in ("mergekit", "peft", "fusion-bench", "speechmerge"):
    importlib.import_module(name.replace("-", "_"))
    print(f"install_peers: {name} {metadata.version(name)}")
PYTHON
}

main() {
    if (($#)); then
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
        [[ $1 == -h || $1 == --help ]] || exit 2
        exit 0
    fi
    if [[ -e $stamp ]] && wanted | cmp -s -- - "$stamp"; then
        say "all is there ($venv; remove it to install again)"
        exit 0
    fi
    SPEECHMERGE_VENV=$venv EXTRAS='' "$root/tools/setup.sh"
    say "installing the peers (log: $venv/peers.log)"
    if ! "$venv/bin/python" -m pip install --no-input --progress-bar off --constraint "$venv/constraints.txt" \
        --requirement "$here/requirements.txt" >"$venv/peers.log" 2>&1; then
        tail -n 12 -- "$venv/peers.log" >&2
        say "failed; the last lines of $venv/peers.log are above"
        exit 1
    fi
    check
    wanted >"$stamp"
}

main "$@"
