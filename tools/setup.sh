#!/usr/bin/env bash
# Makes the environment of the project: .venv with pinned torch and torchaudio, then the project with its extras.
# Called by the recipes and by tests/run.sh when .venv is missing or older than setup.py; safe to repeat or to interrupt.
#
#   tools/setup.sh                                   # everything that the mini recipe, egs/asterisk and the tests need
#   PYTHON=python3.12 tools/setup.sh                 # with this interpreter
#   TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" tools/setup.sh    # another build of torch
#   EXTRAS=mini,wandb tools/setup.sh                 # other extras of setup.py
#   SPEECHMERGE_VENV=/scratch/me/venv tools/setup.sh # elsewhere; recipes take that environment as it is when it is set
set -euo pipefail

torch_version=2.13.0
torchaudio_version=2.11.0 # uses torch's stable ABI and names no torch version of its own
extras=${EXTRAS-mini,av,hf,indic,analysis,demo,test}
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SPEECHMERGE_VENV:-$root/.venv}
log=$venv/setup.log
stamp=$venv/setup.done     # written last: the set-up is complete
running=$venv/setup.running # left behind where a set-up was killed
advice="read the log"       # what to do when the next step fails

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    if [[ -s $log ]]; then
        printf -- '--- last lines of %s\n' "$log" >&2
        tail -n 12 -- "$log" >&2
    fi
    say "failed. $*"
    exit 1
}

on_exit() {
    local status=$?
    # a step that ended by itself leaves whole packages; one that was killed may not, and then the next run starts anew
    if ((status < 128)); then rm -f -- "$running"; fi
    if [[ -n ${lock_dir-} ]]; then rmdir -- "$lock_dir" 2>/dev/null || true; fi
}

# One set-up at a time; a second one waits, and has nothing to do when the first has succeeded.
lock() {
    if command -v flock >/dev/null; then
        exec 9<"$root/setup.py"
        if flock -n 9; then return; fi
        say "waiting for another set-up of $venv"
        flock 9
        if [[ -e $stamp && ! $root/setup.py -nt $stamp ]]; then exit 0; fi
    else # macOS
        until mkdir -- "$venv.lock" 2>/dev/null; do
            say "another set-up is running (if not, remove $venv.lock)"
            sleep 10
        done
        lock_dir=$venv.lock
    fi
}

supported() { # does this interpreter run, with a version we support?
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.10-3.13 is needed, none found as: ${PYTHON:-python3, python3.13 ... python3.10}." \
        "Install one and name it: PYTHON=/path/to/python3.12 tools/setup.sh"
}

make_venv() {
    local python
    mkdir -p -- "$(dirname -- "$venv")"
    if [[ -e $running ]]; then
        say "the last set-up was interrupted: starting with an empty $venv"
        rm -rf -- "$venv"
    fi
    if supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        : >"$log"
        return
    fi
    python=$(find_python) || exit
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module: install it (Debian and Ubuntu: apt-get install python3-venv) and run again."
    if [[ -e $venv && ! -e $venv/pyvenv.cfg ]]; then
        fail "$venv exists and is no virtual environment: move it away and run again."
    fi
    say "making $venv with $("$python" --version 2>&1)"
    rm -rf -- "$venv"
    mkdir -- "$venv"
    : >"$running"
    "$python" -m venv "$venv" >"$log" 2>&1 || fail "$python could not make $venv: is the disk full or read-only?"
}

run_pip() { # output to the log only
    printf '\n$ pip install %s\n' "$*" >>"$log"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install --no-input --progress-bar off "$@" >>"$log" 2>&1
}

install() { # tries what a pip command line names; on failure says what to do
    run_pip "$@" || fail "$advice"
}

torch_is_there() {
    "$venv/bin/python" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$torch_version')" >/dev/null 2>&1
}

install_torch() {
    local cpu_index=https://download.pytorch.org/whl/cpu
    advice="Check the network (a proxy: HTTPS_PROXY, a mirror: PIP_INDEX_URL) or name a build: TORCH='torch==$torch_version' tools/setup.sh"
    if [[ -n ${TORCH-} ]]; then
        local words
        read -ra words <<<"$TORCH"
        say "installing ${words[0]} as TORCH asks"
        install "${words[@]}"
    elif torch_is_there; then
        return
    elif [[ $(nvidia-smi -L 2>/dev/null) == *GPU* || $(uname) == Darwin ]]; then
        say "installing torch $torch_version"
        install "torch==$torch_version"
    else
        say "no NVIDIA GPU: installing the CPU build of torch $torch_version"
        run_pip "torch==$torch_version+cpu" || run_pip "torch==$torch_version" --index-url "$cpu_index" || {
            say "no CPU build for this Python in reach: installing the build with CUDA (some 3 GB)"
            install "torch==$torch_version"
        }
    fi
}

# The torchaudio of PyPI brings compiled operators linked to CUDA. Without them it works in pure Python, and
# everything we use (functional, compliance, pipelines) is pure Python.
install_torchaudio() {
    install --no-deps "torchaudio==$torchaudio_version"
    if "$venv/bin/python" -c 'import torchaudio' >>"$log" 2>&1; then return; fi
    local lib
    lib=$("$venv/bin/python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torchaudio").origin))')/lib
    rm -f -- "$lib"/*.so
    "$venv/bin/python" -c 'import torchaudio' >>"$log" 2>&1 ||
        fail "torchaudio $torchaudio_version cannot be imported beside this torch: choose another build with TORCH=..."
}

install_project() {
    advice="Check the network (a proxy: HTTPS_PROXY, a mirror: PIP_INDEX_URL) and run tools/setup.sh again."
    say "installing speechmerge with its extras ($extras)"
    "$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$venv/constraints.txt"
    install --constraint "$venv/constraints.txt" --editable "$root${extras:+[$extras]}"
}

print_versions() {
    # imported from elsewhere, so that what is installed answers and not the folder we stand in
    (cd "$venv" && bin/python -) 2>>"$log" <<'PYTHON' || fail "The packages are installed but cannot be imported: remove $venv and run tools/setup.sh again."
import importlib, platform
names = ["torch", "torchaudio", "transformers", "peft", "speechmerge"]
print("setup: python", platform.python_version(), *[f"{n} {importlib.import_module(n).__version__}" for n in names])
PYTHON
}

main() {
    if (($#)); then
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
        [[ $1 == -h || $1 == --help ]] || exit 2
        exit 0
    fi
    lock
    trap on_exit EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    make_venv
    : >"$running"
    rm -f -- "$stamp"
    install_torch
    install_torchaudio
    install_project
    print_versions
    : >"$stamp"
}

main "$@"
