#!/usr/bin/env bash
# Runs jobs on this machine, a few at a time, one log each. Succeeds if all of them do.
#
#   local.sh [options] JOB=1:4 exp/log/decode.JOB.log python -m speechmerge decode ... --shard JOB/4
#   local.sh [options] TASK=asr,kws exp/log/train.TASK.log python -m speechmerge train --task TASK ...
#   local.sh [options] exp/log/merge.log python -m speechmerge merge ...
#
# A NAME=1:N or NAME=a,b,c stands for its value wherever it appears as a word of its own in the command or the log's
# name. Several lists of equal length go together: TASK=asr,kws CONFIG=a.yaml,b.yaml.
#   --max-jobs-run N   at most N jobs at once (default: as many as there are cores for --num-threads each)
#   --num-threads N    threads of each job (default: the cores are shared out)
#   --gpu N            GPUs of each job: at most as many jobs at once as the GPUs allow, each sees its own
#   --mem, --time      for clusters; ignored here
# Waits for all jobs. Prints the last line of each log, of a failed job the last lines. Ctrl-C ends the jobs.
# shellcheck disable=SC2317 # functions that traps call
set -euo pipefail
# shellcheck source=backend.sh
. "$(dirname "${BASH_SOURCE[0]}")/backend.sh"

gpus=0
gpu_ids=()
pids=()
work=""

stop_jobs() { # status
    local pid
    trap - INT TERM HUP
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    exec 2>/dev/null # bash would announce each job that was ended
    wait
    exit "$1"
}

# A slot is a share of the machine. The numbers of the free slots wait in a pipe, file descriptor 3.
plan_slots() {
    local cores=$OMP_NUM_THREADS threads=${settings[num-threads]-} slots slot
    gpus=${settings[gpu]:-0}
    slots=${settings[max-jobs-run]:-$((cores / ${threads:-1}))}
    if ((gpus > 0)); then
        while read -r slot; do gpu_ids+=("$slot"); done < <(list_gpus)
        if ((${#gpu_ids[@]} < gpus)); then usage_error "--gpu $gpus: ${#gpu_ids[@]} GPUs to be found"; fi
        if ((slots > ${#gpu_ids[@]} / gpus)); then slots=$((${#gpu_ids[@]} / gpus)); fi
    fi
    if ((slots > count)); then slots=$count; fi
    if ((slots < 1)); then slots=1; fi
    export OMP_NUM_THREADS=${threads:-$((cores > slots ? cores / slots : 1))}
    work=$(mktemp -d)
    mkfifo "$work/slots"
    exec 3<>"$work/slots"
    for ((slot = 0; slot < slots; slot++)); do echo "$slot" >&3; done
}

# Job number $1 in slot $2, which it gives back at the end.
job_in_slot() {
    local log=${logs[$1 - 1]} words=() status=0
    job_words "$1"
    start_log "$log"
    if ((gpus > 0)); then CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpu_ids[*]:$2 * gpus:gpus}") && export CUDA_VISIBLE_DEVICES; fi
    run_job "$log" "${words[@]}" 3>&- || status=$?
    if ((status)); then report_failure "$log" "$status"; else report_success "$log"; fi
    echo "$2" >&3
    return "$status"
}

start_jobs() {
    local job slot
    set -m # each job is a process group of its own, so that it can be ended with all its children
    for ((job = 1; job <= count; job++)); do
        read -r slot <&3
        job_in_slot "$job" "$slot" &
        pids+=($!)
    done
    set +m
}

main() {
    local pid failed=0 watcher=""
    parse_arguments "$@"
    plan_logs
    plan_slots
    if [[ ${SPEECHMERGE_RUN-} =~ ^[0-9]+$ ]]; then
        watch_caller "$SPEECHMERGE_RUN" <&- >/dev/null 2>&1 3>&- &
        watcher=$!
    fi
    trap 'rm -rf -- "$work"; kill ${watcher:+"$watcher"} 2>/dev/null || true' EXIT
    trap 'stop_jobs 130' INT
    trap 'stop_jobs 143' TERM HUP
    start_jobs
    for pid in "${pids[@]}"; do wait "$pid" || failed=$((failed + 1)); done
    report_all "$failed"
}

{ main "$@"; exit; } # nothing more is read from this file, which may change before the jobs have ended
