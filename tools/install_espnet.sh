#!/usr/bin/env bash
# Adds ESPnet to the environment of the project, for OWSM and other ESPnet speech-to-text models. Safe to repeat.
# Nothing that is installed changes its version: ESPnet comes without its own pins (which name an older sentencepiece,
# setuptools and importlib-metadata, and packages for training recipes that are not used here), with what its
# speech-to-text task imports. `pip check` therefore names requirements of espnet that are left out on purpose.
#
#   tools/install_espnet.sh                                    # into .venv, which tools/setup.sh has made
#   SPEECHMERGE_VENV=/scratch/me/venv tools/install_espnet.sh  # into that environment
set -euo pipefail

espnet_version=202511 # the last one for Python 3.10 and 3.11
# What `import espnet2.bin.s2t_inference` needs, and librosa at its first call. hydra and opt_einsum belong to the S4
# decoder, g2p_en, jamo, jaconv and unidecode to text-to-speech, numba to librosa; all are imported, and none but librosa
# (mel filters) works for OWSM.
packages=(
    "espnet==$espnet_version" decorator einops espnet_tts_frontend g2p_en h5py humanfriendly hydra-core inflect jaconv
    jamo kaldiio lazy_loader librosa msgpack nltk opt_einsum platformdirs pooch soxr torch_complex typeguard unidecode
    "antlr4-python3-runtime==4.9.3" # the version of hydra's grammar
)
resolved=(numba) # with its llvmlite, which must fit
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SPEECHMERGE_VENV:-$root/.venv}
log=$venv/install_espnet.log

say() { printf 'install_espnet: %s\n' "$*" >&2; }

fail() {
    if [[ -s $log ]]; then
        printf -- '--- last lines of %s\n' "$log" >&2
        tail -n 12 -- "$log" >&2
    fi
    say "failed. $*"
    exit 1
}

lock() { # the one of tools/setup.sh: two installers never work in one environment at a time
    command -v flock >/dev/null || return 0
    exec 9<"$root/setup.py"
    if flock -n 9; then return; fi
    say "waiting for another installation in $venv"
    flock 9
}

versions() { # name==version of what is installed, one a line
    "$venv/bin/python" -m pip --disable-pip-version-check list --format=freeze --exclude-editable | sort
}

run_pip() { # output to the log only
    printf '\n$ pip install %s\n' "$*" >>"$log"
    "$venv/bin/python" -m pip --disable-pip-version-check install --no-input --progress-bar off "$@" >>"$log" 2>&1 ||
        fail "Check the network (a proxy: HTTPS_PROXY, a mirror: PIP_INDEX_URL) and run tools/install_espnet.sh again."
}

works() { # from elsewhere, so that what is installed answers; g2p_en must not fetch its data: nothing reads them
    (cd "$venv" && bin/python -) >>"$log" 2>&1 <<PYTHON
import importlib.metadata, nltk
assert importlib.metadata.version("espnet") == "$espnet_version"
nltk.download = lambda *words, **options: False
import espnet2.bin.s2t_inference, librosa
assert librosa.filters.mel(sr=16000, n_fft=512, n_mels=80).shape == (80, 257)
PYTHON
}

main() {
    if (($#)); then
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
        [[ $1 == -h || $1 == --help ]] || exit 2
        exit 0
    fi
    [[ -x $venv/bin/python ]] || fail "There is no environment in $venv: run tools/setup.sh first."
    lock
    : >"$log"
    if works; then
        say "espnet $espnet_version is there already, in $venv"
        return
    fi
    local before=$venv/versions.before
    versions >"$before"
    say "adding espnet $espnet_version and what its speech-to-text task imports to $venv (some 270 MB)"
    run_pip --constraint "$before" "${resolved[@]}"
    run_pip --no-deps --constraint "$before" "${packages[@]}"
    local changed
    changed=$(versions | comm -13 - "$before")
    [[ -z $changed ]] ||
        fail "Other versions than before of: ${changed//$'\n'/, }. Run tools/setup.sh to get them back."
    works || fail "It is installed but cannot be imported: send these lines with your report."
    say "espnet $espnet_version works; $(versions | comm -23 - "$before" | wc -l) packages are new"
    rm -f -- "$before"
}

main "$@"
