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
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"

max_jobs="" threads="" gpus=0
variables=()         # names that stand for a value
declare -A values=() # "name job" -> value; job 0 is for messages about all jobs
count=1              # of jobs
command=()
logs=()
gpu_ids=()
pids=()
work=""

usage_error() {
    printf 'local.sh: %s\n' "$*" >&2
    exit 2
}

is_positive() { [[ $1 =~ ^[1-9][0-9]{0,8}$ ]]; }

add_variable() { # NAME=1:N or NAME=a,b,c
    local name=${1%%=*} list=${1#*=} items=() i
    if [[ $list =~ ^([1-9][0-9]{0,8}):([1-9][0-9]{0,8})$ ]]; then
        for ((i = BASH_REMATCH[1]; i <= BASH_REMATCH[2]; i++)); do items+=("$i"); done
    elif [[ $list =~ ^[0-9]*:[0-9]*$ ]]; then
        usage_error "$1: expected first:last with 1 <= first <= last"
    else
        IFS=, read -ra items <<<"$list"
    fi
    if ((${#items[@]} == 0)); then usage_error "$1: no jobs (expected first:last with 1 <= first <= last, or a,b,c)"; fi
    if ((${#variables[@]} > 0 && ${#items[@]} != count)); then
        usage_error "$1 has ${#items[@]} values, ${variables[0]} has $count"
    fi
    variables+=("$name")
    values["$name 0"]="*"
    count=${#items[@]}
    for i in "${!items[@]}"; do values["$name $((i + 1))"]=${items[i]}; done
}

# $1 with NAME replaced by the value for job $2 where no letter or digit touches it.
substitute() {
    local text=$1 name tail
    for name in ${variables[@]+"${variables[@]}"}; do
        tail=""
        while [[ $text =~ ^(.*[^A-Za-z0-9]|)"$name"([^A-Za-z0-9].*|)$ ]]; do
            tail=${values["$name $2"]}${BASH_REMATCH[2]}$tail
            text=${BASH_REMATCH[1]}
        done
        text+=$tail
    done
    printf '%s' "$text"
}

run_job() { # log command...; runs with the slot's environment, writes the log, returns the command's status
    local log=$1 status=0 start=$SECONDS
    shift
    {
        printf '# %s\n' "$(printf '%q ' "$@")"
        printf '# Started at %s\n' "$(date '+%F %T')"
        "$@" </dev/null || status=$?
        printf '# Accounting: time=%d threads=%s\n' $((SECONDS - start)) "$OMP_NUM_THREADS"
        printf '# Ended (code %d) at %s, elapsed time %d seconds\n' "$status" "$(date '+%F %T')" $((SECONDS - start))
    } >"$log" 2>&1
    return "$status"
}

report_success() { # log: its last line, where programs say what came out
    local line
    line=$({ grep -v '^# ' -- "$1" || true; } | tail -n 1 | tr '\r' '\n' | tail -n 1)
    printf 'local.sh: %s: done%s\n' "$1" "${line:+: $line}" >&2
}

report_failure() { # log status; in one write, since jobs may fail together
    local lines cause=""
    if (($2 == 137)); then cause=" (killed: out of memory?)"; fi
    lines=$({ grep -v -E '^# (Accounting|Ended|Started)' -- "$1" || true; } | tail -n 15 | sed 's/^/    /')
    printf 'local.sh: job failed with status %d%s, log is in %s, its last lines:\n%s\n' "$2" "$cause" "$1" "$lines" >&2
}

stop_jobs() { # status
    local pid
    trap - INT TERM HUP
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    exec 2>/dev/null # bash would announce each job that was ended
    wait
    exit "$1"
}

# Ends this script when the recipe that called it is gone, even by kill -9: two trainings must not write one folder.
watch_caller() {
    while kill -0 "$1" 2>/dev/null; do sleep 1; done
    kill -TERM $$
}

parse_arguments() {
    while (($#)); do
        case $1 in
            --gpu | --mem | --num-threads | --time | --max-jobs-run | --config)
                if (($# < 2)); then usage_error "$1 needs a value"; fi
                case $1 in
                    --gpu) gpus=$2 ;;
                    --num-threads) threads=$2 ;;
                    --max-jobs-run) max_jobs=$2 ;;
                esac
                shift
                ;;
            --*) usage_error "unknown option $1 (known: --gpu --mem --num-threads --time --max-jobs-run)" ;;
            [A-Z]*=*) add_variable "$1" ;;
            *) break ;;
        esac
        shift
    done
    if (($# < 2)); then usage_error "usage: local.sh [options] [JOB=1:N] log command ..."; fi
    [[ $gpus =~ ^[0-9]{1,4}$ ]] || usage_error "--gpu: expected a whole number, found '$gpus'"
    [[ -z $threads ]] || is_positive "$threads" || usage_error "--num-threads: expected a whole number from 1, found '$threads'"
    [[ -z $max_jobs ]] || is_positive "$max_jobs" || usage_error "--max-jobs-run: expected a whole number from 1, found '$max_jobs'"
    log_pattern=$1
    command=("${@:2}")
}

plan_logs() {
    local job log
    local -A seen=()
    for ((job = 1; job <= count; job++)); do
        log=$(substitute "$log_pattern" "$job")
        if [[ -n ${seen["$log"]-} ]]; then usage_error "two jobs would write one log, $log: put ${variables[0]} into its name"; fi
        seen["$log"]=1
        logs+=("$log")
        mkdir -p -- "$(dirname -- "$log")"
    done
}

# A slot is a share of the machine. The numbers of the free slots wait in a pipe, file descriptor 3.
plan_slots() {
    local cores=$OMP_NUM_THREADS slots slot
    slots=${max_jobs:-$((cores / ${threads:-1}))}
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
    local log=${logs[$1 - 1]} word words=() status=0
    for word in "${command[@]}"; do words+=("$(substitute "$word" "$1")"); done
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
    if ((failed)); then
        printf 'local.sh: %d / %d failed, logs: %s\n' "$failed" "$count" "$(substitute "$log_pattern" 0)" >&2
        exit 1
    fi
}

main "$@"
