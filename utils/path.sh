# Environment of the recipes; source it, also by hand:   cd egs/mini && . ../../utils/path.sh && python -m speechmerge list
# Sets SPEECHMERGE_ROOT, PATH, locale, threads, and activates the environment that tools/setup.sh made.
# shellcheck shell=bash

if [ -z "${BASH_VERSION-}" ] || [ "${BASH_VERSINFO[0]}" -lt 4 ]; then
    echo "SpeechMerge needs bash 4 or later, this is ${BASH_VERSION:-another shell} (macOS: brew install bash)" >&2
    exit 2
fi

SPEECHMERGE_ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export SPEECHMERGE_ROOT
case :$PATH: in
    *:"$SPEECHMERGE_ROOT/utils":*) ;;
    *) export PATH=$SPEECHMERGE_ROOT/utils:$PATH ;;
esac

export LC_ALL=C                # ids sort by bytes
export PYTHONUTF8=1            # text is UTF-8 although the locale is C
export PYTHONIOENCODING=UTF-8
export PYTHONPATH=$SPEECHMERGE_ROOT${PYTHONPATH:+:$PYTHONPATH} # this tree's code, whatever tree the environment was made in
export TOKENIZERS_PARALLELISM=false # data loaders fork

# Threads of a single process: all cores it may use, unless the user says less; `local.sh` shares them out among its jobs.
if [ -z "${OMP_NUM_THREADS-}" ]; then
    OMP_NUM_THREADS=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    export OMP_NUM_THREADS
fi

# What a small script does first: `help_or_go LEAST "$@"` prints its header for --help (or no argument), and its usage line
# where there are fewer than LEAST arguments; else the environment is made ready.
help_or_go() {
    case ${2-} in
        "" | -h | --help) sed -n '2,3s/^# //p' "$0" && exit ;;
    esac
    if [ $(($# - 1)) -lt "$1" ]; then sed -n '3s/^# //p' "$0" >&2 && exit 2; fi
    ensure_environment
}

# One GPU per line: those this process may use.
list_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+x}" ]; then
        printf '%s\n' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | sed '/^$/d'
    else
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
    fi
}

# Makes the environment where it is missing or older than setup.py. A SPEECHMERGE_VENV of the user's is taken as it is.
ensure_environment() {
    local venv=${SPEECHMERGE_VENV:-$SPEECHMERGE_ROOT/.venv}
    if [ -z "${SPEECHMERGE_VENV-}" ]; then
        if [ ! -e "$venv/setup.done" ] || [ "$SPEECHMERGE_ROOT/setup.py" -nt "$venv/setup.done" ]; then
            "$SPEECHMERGE_ROOT/tools/setup.sh"
        fi
    fi
    activate_environment
}

activate_environment() {
    local venv=${SPEECHMERGE_VENV:-$SPEECHMERGE_ROOT/.venv}
    if [ ! -x "$venv/bin/python" ]; then
        echo "there is no Python environment in $venv: run $SPEECHMERGE_ROOT/tools/setup.sh" >&2
        return 1
    fi
    export VIRTUAL_ENV=$venv
    case $PATH in
        "$venv/bin":*) ;;
        *) export PATH=$venv/bin:$PATH ;;
    esac
    unset PYTHONHOME
}

case $- in
    *i*) activate_environment ;; # sourced by hand
esac
