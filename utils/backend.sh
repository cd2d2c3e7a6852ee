# What the job back ends share: lists of jobs, their logs, what is said about them. To be sourced by utils/<back end>.sh,
# which may add to valued_options and flags and finds what was given in settings[mem], settings[no-wait], ...
# shellcheck shell=bash disable=SC2034 # what is set here is used by the back ends

. "$(dirname "${BASH_SOURCE[0]}")/path.sh"

valued_options="--gpu --num-threads --max-jobs-run --mem --time --config"
flags=""
declare -A settings=() # option without its dashes -> value
variables=()           # names that stand for a value
declare -A values=()   # "name job" -> value; job 0 is for messages about all jobs
count=1                # of jobs
log_pattern=""
command=()
logs=()

usage_error() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
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

# The words of job $1, into the caller's array `words`.
job_words() {
    local word
    words=()
    for word in "${command[@]}"; do words+=("$(substitute "$word" "$1")"); done
}

start_log() { : >"$1"; } # what an earlier run wrote goes

# log command...; appends to the log, returns the command's status.
run_job() {
    local log=$1 status=0 start=$SECONDS
    shift
    {
        printf '# %s\n' "$(printf '%q ' "$@")"
        printf '# Started at %s\n' "$(date '+%F %T')"
        "$@" </dev/null || status=$?
        printf '# Accounting: time=%d threads=%s\n' $((SECONDS - start)) "$OMP_NUM_THREADS"
        printf '# Ended (code %d) at %s, elapsed time %d seconds\n' "$status" "$(date '+%F %T')" $((SECONDS - start))
    } >>"$log" 2>&1
    return "$status"
}

report_success() { # log: its last line, where programs say what came out
    local line
    line=$({ grep -v '^# ' -- "$1" || true; } | tail -n 1 | tr '\r' '\n' | tail -n 1)
    printf '%s: %s: done%s\n' "${0##*/}" "$1" "${line:+: $line}" >&2
}

report_failure() { # log status [cause]; in one write, since jobs may fail together
    local lines="" cause=${3:+ ($3)}
    if [[ -z $cause ]] && (($2 == 137)); then cause=" (killed: out of memory?)"; fi
    if [[ -e $1 ]]; then
        lines=$({ grep -v -E '^# (Accounting|Ended|Started)' -- "$1" || true; } | tail -n 15 | sed 's/^/    /')
    fi
    printf '%s: job failed with status %d%s, log is in %s, its last lines:\n%s\n' "${0##*/}" "$2" "$cause" "$1" "$lines" >&2
}

report_all() { # number of failed jobs; the status of the back end
    if (($1 == 0)); then return; fi
    printf '%s: %d / %d failed, logs: %s\n' "${0##*/}" "$1" "$count" "$(substitute "$log_pattern" 0)" >&2
    return 1
}

# Ends this script when the recipe that called it is gone, even by kill -9: two trainings must not write one folder.
watch_caller() {
    while kill -0 "$1" 2>/dev/null; do sleep 1; done
    kill -TERM $$
}

parse_arguments() {
    while (($#)); do
        if [[ " $valued_options " == *" $1 "* ]]; then
            if (($# < 2)); then usage_error "$1 needs a value"; fi
            settings[${1#--}]=$2
            shift
        elif [[ " $flags " == *" $1 "* ]]; then
            settings[${1#--}]=true
        elif [[ $1 == --* ]]; then
            usage_error "unknown option $1 (known: $valued_options${flags:+ $flags})"
        elif [[ $1 == [A-Z]*=* ]]; then
            add_variable "$1"
        else
            break
        fi
        shift
    done
    if (($# < 2)); then usage_error "usage: ${0##*/} [options] [JOB=1:N] log command ..."; fi
    log_pattern=$1
    command=("${@:2}")
    check_settings
}

check_settings() {
    local name
    [[ ${settings[gpu]-0} =~ ^[0-9]{1,4}$ ]] || usage_error "--gpu: expected a whole number, found '${settings[gpu]}'"
    for name in num-threads max-jobs-run nodes; do
        [[ -z ${settings[$name]-} ]] || is_positive "${settings[$name]}" ||
            usage_error "--$name: expected a whole number from 1, found '${settings[$name]}'"
    done
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
