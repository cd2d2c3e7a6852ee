#!/usr/bin/env bash
# Make the upstream of egs/mini: speech from espeak-ng, then masked prediction on the CPU.
#
#   tools/mini_upstream/train.sh                        # writes egs/mini/upstream, works in egs/mini/exp/mini_upstream
#   tools/mini_upstream/train.sh OUTPUT_DIR WORK_DIR
#
# NJ (processes that speak), STEPS1 come from the environment, so does STEPS2: steps of a second iteration on units of a layer of
# the first one's network (none by default; the shipped weights are without it). Killed and run again, it goes on where it was.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
output_dir=${1:-$root/egs/mini/upstream}
work=${2:-$root/egs/mini/exp/mini_upstream}
[[ -d $root/.venv ]] || "$root/tools/setup.sh"
# shellcheck source=/dev/null
. "$root/.venv/bin/activate"
export PYTHONPATH=$root OMP_NUM_THREADS=1
cd "$root/tools/mini_upstream"

python speech.py --work "$work" --nj "${NJ:-2}"
python units.py --work "$work" --output units1
python pretrain.py --work "$work" --units units1 --name iteration1 --steps "${STEPS1:-1000}" --output-dir "$output_dir"
if ((${STEPS2:-0} > 0)); then
    python units.py --work "$work" --output units2 --checkpoint "$work/iteration1.pt"
    python pretrain.py --work "$work" --units units2 --name iteration2 --start iteration1 --steps "$STEPS2" \
        --output-dir "$output_dir"
fi
