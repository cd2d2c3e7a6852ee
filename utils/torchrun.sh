#!/usr/bin/env bash
# A verb by several processes that share its work: on this machine, or on all nodes of the Slurm job that runs it.
# usage: utils/torchrun.sh [--processes N] train --task asr ...      N: of each node; default: one per GPU, without any one
#
# On several nodes srun starts a torchrun on each of them; they meet on the first one, at a port that follows from the job's
# number. A process that fails ends all.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"

# The first node, by its name where it has an address, else as Slurm knows it.
first_node() {
    local name
    name=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    if getent hosts "$name" >/dev/null; then
        printf '%s\n' "$name"
    else
        scontrol -o show node "$name" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p'
    fi
}

main() {
    local processes="" nodes=${SLURM_JOB_NUM_NODES:-1} where
    if [[ ${1-} == --on-node ]]; then # within srun
        exec python -m speechmerge.launch --processes "$2" --nodes "$nodes" --node "$SLURM_NODEID" --master "$3" "${@:4}"
    fi
    help_or_go 1 "$@"
    if [[ $1 == --processes ]]; then
        processes=${2-}
        shift 2
    fi
    if [[ -z $processes ]]; then processes=$(list_gpus | grep -c .) || processes=1; fi
    if [[ ! $processes =~ ^[1-9][0-9]{0,3}$ ]]; then
        echo "torchrun.sh: --processes: expected a whole number from 1, found '$processes'" >&2
        exit 2
    fi
    if ((OMP_NUM_THREADS > processes)); then OMP_NUM_THREADS=$((OMP_NUM_THREADS / processes)); else OMP_NUM_THREADS=1; fi
    if ((nodes == 1)); then exec python -m speechmerge.launch --processes "$processes" "$@"; fi
    where=$(first_node):$((10000 + SLURM_JOB_ID % 20000))
    exec srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --kill-on-bad-exit=1 "$SPEECHMERGE_ROOT/utils/torchrun.sh" --on-node "$processes" "$where" "$@"
}

{ main "$@"; exit; } # nothing more is read from this file, which may change before the processes have ended
