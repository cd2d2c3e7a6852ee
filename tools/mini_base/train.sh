#!/usr/bin/env bash
# Make the base model of egs/mini: speech from espeak-ng, then pre-training on the CPU, then its scores.
#
#   tools/mini_base/train.sh                        # writes egs/mini/base, works in egs/mini/exp/mini_base
#   tools/mini_base/train.sh OUTPUT_DIR WORK_DIR
#
# STEPS, THREADS and NJ (processes that speak) come from the environment. Killed and run again, it goes on where it was.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
output_dir=${1:-$root/egs/mini/base}
work=${2:-$root/egs/mini/exp/mini_base}
[[ -d $root/.venv ]] || "$root/tools/setup.sh"
# shellcheck source=/dev/null
. "$root/.venv/bin/activate"
export PYTHONPATH=$root OMP_NUM_THREADS=${THREADS:-1} TOKENIZERS_PARALLELISM=false

python "$root/tools/mini_base/speech.py" --work "$work" --nj "${NJ:-2}"
python "$root/tools/mini_base/pretrain.py" --work "$work" --output-dir "$output_dir" \
    --steps "${STEPS:-14000}" --threads "${THREADS:-1}"
python "$root/tools/mini_base/measure.py" --model "$output_dir" --work "$work"
