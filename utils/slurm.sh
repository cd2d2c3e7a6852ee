#!/usr/bin/env bash
# Runs jobs on a Slurm cluster as one array, one log each: the contract of utils/local.sh, whose examples hold here.
#
#   slurm.sh [options] JOB=1:4 exp/log/decode.JOB.log python -m speechmerge decode ... --shard JOB/4
#
#   --max-jobs-run N   at most N jobs at once (default: array_limit of conf/slurm.yaml, else all)
#   --num-threads N    cores of each job (default 1)
#   --gpu N            GPUs of each job, on each of its nodes
#   --nodes N          nodes of each job (default 1); what is to run on all of them starts with torchrun.sh or srun
#   --mem 64G, --time 24:00:00, --partition P, --account A, --requeue    over conf/slurm.yaml, see there for more
#   --config FILE      one more conf/slurm.yaml
#   --name NAME        of the array (default: from the log)
#   --depend ID[,ID]   start after these jobs have succeeded; where one fails, these jobs are cancelled
#   --no-wait          print the array's job id and end
# Waits for all jobs. Prints the last line of each log, of a failed job the last lines. Ctrl-C cancels the jobs. A job that
# is preempted, or whose node fails, is queued again and adds to its log. Needs a file system that all nodes share.
# shellcheck disable=SC2317 # functions that traps call
set -euo pipefail
# shellcheck source=backend.sh
. "$(dirname "${BASH_SOURCE[0]}")/backend.sh"

valued_options+=" --depend --partition --account --name --nodes"
flags="--no-wait --requeue"
folder=""    # of this submission: <job>.job the words, <job>.status how it ended, <job>.out what Slurm itself said
job_id=""    # of the array
listing=""   # of squeue: "job state" lines
declare -A ended=() unseen=() # job -> 1; job -> how often it was neither in the queue nor had a status
failed=0
watcher=""

main() {
    if [[ ${1-} == --run-job ]]; then run_array_job "$2"; fi
    parse_arguments "$@"
    if [[ ! ${settings[depend]-1} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
        usage_error "--depend: expected job ids, as 12 or 12,13, found '${settings[depend]}'"
    fi
    command -v sbatch >/dev/null || fail "there is no sbatch on this machine: is it a login node of a Slurm cluster?"
    activate_environment
    plan_options
    plan_logs
    trap 'kill ${watcher:+"$watcher"} 2>/dev/null || true' EXIT
    trap 'cancel_jobs 130' INT
    trap 'cancel_jobs 143' TERM HUP
    submit
    if [[ -n ${settings[no-wait]-} ]]; then
        printf '%s\n' "$job_id"
        return
    fi
    if [[ ${SPEECHMERGE_RUN-} =~ ^[0-9]+$ ]]; then
        watch_caller "$SPEECHMERGE_RUN" <&- >/dev/null 2>&1 &
        watcher=$!
    fi
    wait_for_jobs
    report_all "$failed"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

plan_options() { # sbatch_options; the first line is the throttle
    local name words=() text
    for name in gpu nodes num-threads max-jobs-run mem time partition account; do
        if [[ -n ${settings[$name]-} ]]; then words+=("--$name=${settings[$name]}"); fi
    done
    if [[ -n ${settings[requeue]-} ]]; then words+=(--requeue); fi
    for name in "$SPEECHMERGE_ROOT/conf/slurm.yaml" conf/slurm.yaml; do
        if [[ -e $name && ! ( $name != /* && $PWD == "$SPEECHMERGE_ROOT" ) ]]; then words+=("$name"); fi
    done
    if [[ -n ${settings[config]-} ]]; then words+=("${settings[config]}"); fi
    text=$(python -m speechmerge.grid.slurm_options "${words[@]}") || exit
    mapfile -t sbatch_options <<<"$text"
}

submit() {
    local job words=() array="1-$count" name=${settings[name]-}
    mkdir -p -- "$(dirname -- "${logs[0]}")/.slurm"
    folder=$(mktemp -d "$(CDPATH='' cd -- "$(dirname -- "${logs[0]}")/.slurm" && pwd)/XXXXXX")
    for ((job = 1; job <= count; job++)); do
        job_words "$job"
        printf '%s\0' "${logs[job - 1]}" "${words[@]}" >"$folder/$job.job"
    done
    printf '#!/usr/bin/env bash\nexec %q --run-job %q\n' "$SPEECHMERGE_ROOT/utils/slurm.sh" "$folder" >"$folder/script"
    if ((sbatch_options[0] > 0)); then array+=%${sbatch_options[0]}; fi
    if [[ -n ${settings[depend]-} ]]; then
        sbatch_options+=("--dependency=afterok:${settings[depend]//,/:}" --kill-on-invalid-dep=yes)
    fi
    # an interrupt waits until the job's number is known
    job_id=$(
        trap '' INT TERM HUP
        exec sbatch --parsable --array="$array" --job-name="${name:-$(array_name)}" --open-mode=append \
            --output="${folder//%/%%}/%a.out" "${sbatch_options[@]:1}" "$folder/script"
    ) || fail "sbatch refused the jobs, its reason stands above"
    job_id=${job_id%%;*} # id;cluster
    printf '%s\n' "$job_id" >"$folder/job_id"
}

array_name() { # decode.test.JOB.log -> decode.test
    local name=${log_pattern##*/}
    if ((${#variables[@]})); then name=${name//.${variables[0]}/}; fi
    printf '%s' "${name%.log}"
}

# On the node: job $SLURM_ARRAY_TASK_ID of folder $1.
run_array_job() {
    local job=$SLURM_ARRAY_TASK_ID words=() status=0
    folder=$1
    mapfile -d '' -t words <"$folder/$job.job"
    rm -f "$folder/$job.status"
    export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} SPEECHMERGE_CMD=local cmd_backend=local # what it starts, it starts here
    unset SPEECHMERGE_RUN                                                                 # a process of another machine
    if ((${SLURM_RESTART_COUNT:-0} == 0)); then start_log "${words[0]}"; fi
    trap 'printf "# Interrupted by Slurm at %s\n" "$(date "+%F %T")" >>"${words[0]}"; exit 143' TERM
    run_job "${words[@]}" || status=$?
    printf '%s\n' "$status" >"$folder/$job.status.part"
    mv "$folder/$job.status.part" "$folder/$job.status"
    exit "$status"
}

# The queue's view of the jobs; status 1 where the controller does not answer, which passes.
list_jobs() {
    local message
    if listing=$(squeue -h -r -j "$job_id" -o '%K %T' 2>"$folder/squeue"); then
        return 0 # without the number it would be, within a trap, the status of what was interrupted
    fi
    message=$(cat "$folder/squeue")
    listing=""
    [[ $message == *"Invalid job id"* ]] # all have ended some time ago
}

pause() { # seconds; a signal is heard at once
    sleep "$1" &
    wait $! || true
}

wait_for_jobs() {
    local start=$SECONDS job seconds
    while ((${#ended[@]} < count)); do
        seconds=$(((SECONDS - start) / 10)) # often at first, since short jobs are waited for by somebody
        if ((seconds == 0)); then pause 0.5; else pause $((seconds > 15 ? 15 : seconds)); fi
        if ! list_jobs; then
            printf '%s: squeue does not answer, trying again: %s\n' "${0##*/}" "$(tail -n 1 "$folder/squeue")" >&2
            continue
        fi
        warn_of_held
        for ((job = 1; job <= count; job++)); do
            if [[ -z ${ended[$job]-} ]]; then settle "$job"; fi
        done
    done
    rm -rf -- "$folder"
    rmdir -- "${folder%/*}" 2>/dev/null || true
}

# Reports a job that is no longer in the queue. Its status may take a while to come from another machine's disk.
settle() {
    local state="" status
    if [[ $'\n'$listing$'\n' =~ $'\n'"$1 "([A-Z_]+)$'\n' ]]; then state=${BASH_REMATCH[1]}; fi
    if [[ -n $state && ! ( $state == COMPLETING && -e $folder/$1.status ) ]]; then return; fi
    if [[ -e $folder/$1.status ]]; then
        status=$(cat "$folder/$1.status")
        if ((status == 0)); then
            report_success "${logs[$1 - 1]}"
        else
            failed=$((failed + 1))
            report_failure "${logs[$1 - 1]}" "$status"
        fi
        ended[$1]=1
    elif ((unseen[$1] = ${unseen[$1]-0} + 1, unseen[$1] >= 4)); then
        failed=$((failed + 1))
        report_failure "${logs[$1 - 1]}" 143 "$(cause_of "$1")"
        ended[$1]=1
    fi
}

# What Slurm says of a job that left no status: TIMEOUT, OUT_OF_MEMORY, CANCELLED, NODE_FAIL, and its last line.
cause_of() {
    local record said
    record=$(scontrol -o show job "${job_id}_$1" 2>/dev/null || true)
    if [[ $record =~ JobState=([A-Z_]+)\ Reason=([^ ]+) ]]; then
        printf '%s' "${BASH_REMATCH[1]}"
        if [[ ${BASH_REMATCH[2]} != None ]]; then printf ', %s' "${BASH_REMATCH[2]}"; fi
    else
        printf 'it left the queue%s' "$(if [[ ! -e ${logs[$1 - 1]} ]]; then echo ' before it began'; fi)"
    fi
    said=$({ tail -n 1 "$folder/$1.out" 2>/dev/null || true; } | cut -c 1-300)
    printf '%s' "${said:+; Slurm said: $said}"
}

warn_of_held() { # once
    if [[ -n ${held-} || $listing != *_HOLD* && $listing != *SPECIAL_EXIT* ]]; then return; fi
    held=1
    printf '%s: jobs of %s are held; see squeue -j %s, then scontrol release %s\n' "${0##*/}" "$job_id" "$job_id" "$job_id" >&2
}

cancel_jobs() { # status; returns when the jobs have ended, so that they do not write what the next run writes
    local _
    trap - INT TERM HUP
    if [[ -n $job_id ]]; then
        scancel "$job_id" || true
        for _ in {1..60}; do
            if list_jobs && [[ -z $listing ]]; then break; fi
            sleep 0.5
        done
    fi
    exit "$1"
}

{ main "$@"; exit; } # nothing more is read from this file, which may change before the jobs have ended
