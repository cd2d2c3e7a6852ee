#!/usr/bin/env bash
# Runs the cells of a grid file that are not finished, phase after phase, on this machine or as arrays on a Slurm cluster.
#
#   utils/grid.sh conf/grid/mini.yaml                           here; or on the cluster that SPEECHMERGE_CMD=slurm says
#   utils/grid.sh conf/grid/phase1.yaml --backend slurm         submits, waits; Ctrl-C cancels; again: what is missing
#   utils/grid.sh conf/grid/phase3.yaml --backend slurm --wait false     submits all phases, each after what it needs
#   utils/grid.sh conf/grid/phase1.yaml --dry-run true          prints cells, their state and their commands
#   utils/jobs.sh conf/grid/phase1.yaml                         the state of each cell
# Paths of the file's commands are as seen from the current folder. docs/cluster.md describes grid files.
# shellcheck disable=SC2154 # options are variables
set -euo pipefail
utils=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=path.sh
. "$utils/path.sh"
# shellcheck source=parse_options.sh
. "$utils/parse_options.sh"
# shellcheck source=cmd.sh
. "$utils/cmd.sh"

option backend "one:local|slurm" "$cmd_backend" "who runs the jobs"
option wait bool true "until all have ended; false (slurm): print the job ids"
option phases words "" "phases of the file, and what they need; empty: all"
option param args "" "over the file's values, as \"exp_dir=exp/other seed=2\""
option gpus word "" "GPUs of each job, instead of the file's; 0: none"
option max_jobs_run word "" "jobs at once, instead of the file's"
option config path "" "slurm: one more conf/slurm.yaml"
option force bool false "run finished cells, too"
option dry_run bool false "print the cells and their commands, run nothing"

grid() { python -m speechmerge grid --grid "$1" "${@:2}" ${gpus:+--gpus "$gpus"} "${given[@]}"; }

# Submits or runs one phase of a file.
run_phase() {
    local text plan words
    text=$(grid "$1" --action todo --phases "$2" --force "$force") || exit
    mapfile -t plan <<<"$text" # folder, cells, options of the back end, jobs of what it needs, its own jobs
    read -ra words <<<"${plan[2]}"
    if [[ -n ${plan[4]} && $backend == local ]]; then
        usage_error "$1: $2 has jobs ${plan[4]} in the queue of the cluster: wait for them, or scancel ${plan[4]//,/ }"
    fi
    if [[ -z ${plan[1]} ]]; then
        printf 'grid.sh: %s %s: nothing to run%s\n' "$1" "$2" "${plan[4]:+, jobs ${plan[4]} are in the queue}" >&2
        return
    fi
    if [[ -n $max_jobs_run ]]; then words+=(--max-jobs-run "$max_jobs_run"); fi
    if [[ $backend == slurm ]]; then
        words+=(--name "$(basename -- "$1" .yaml).$2")
        if [[ -n ${plan[3]} ]]; then words+=(--depend "${plan[3]}"); fi
        if [[ -n $config ]]; then words+=(--config "$config"); fi
        if [[ $wait == false ]]; then words+=(--no-wait); fi
    fi
    printf 'grid.sh: %s %s: %s cells\n' "$1" "$2" "$(tr ',' '\n' <<<"${plan[1]}" | wc -l)" >&2
    "$backend.sh" "${words[@]}" "CELL=${plan[1]}" "${plan[0]}/log/CELL.log" \
        python -m speechmerge grid --action run --cell-dir "${plan[0]}/cells/CELL"
}

main() {
    local file=${1-} text path phase words status=0
    case $file in
        "" | -h | --help)
            sed -n '2,9s/^# \{0,1\}//p' "$0"
            print_help
            exit
            ;;
        -*) usage_error "the first argument is the grid file, found the option $file" ;;
    esac
    parse_options "${@:2}"
    if [[ $wait == false && $backend == local ]]; then usage_error "--wait false: only for --backend slurm"; fi
    if [[ -n $gpus && ! $gpus =~ ^[0-9]+$ ]]; then usage_error "--gpus: expected a whole number, found '$gpus'"; fi
    ensure_environment
    export SPEECHMERGE_RUN=$$ # jobs end when this shell does
    given=()
    read -ra words <<<"$param"
    if ((${#words[@]})); then given+=(--param "${words[@]}"); fi
    # shellcheck disable=SC2086 # a list
    if [[ $dry_run == true ]]; then
        grid "$file" --action plan --phases $phases
        return
    fi
    # shellcheck disable=SC2086 # a list
    text=$(grid "$file" --action phases --phases $phases) || exit
    while IFS=$'\t' read -r path phase <&4; do
        run_phase "$path" "$phase" || {
            status=$?
            break
        }
    done 4<<<"$text"
    if [[ $wait == true ]]; then python -m speechmerge report --aggregate "$file" "${given[@]}"; fi
    if ((status > 0)); then printf 'grid.sh: %s failed; the same command again runs what is not finished\n' "$phase" >&2; fi
    return "$status"
}

{ main "$@"; exit; } # nothing more is read from this file, which may change before the jobs have ended
