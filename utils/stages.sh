# What run.sh and merge.sh share: common options, the recipe's defaults, running stages and commands. To be sourced.
# The caller declares stages and options, defines do_<stage> for each stage, then calls main "$@".
# shellcheck shell=bash disable=SC2154 # options are variables

utils=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=path.sh
. "$utils/path.sh"
# shellcheck source=parse_options.sh
. "$utils/parse_options.sh"
# shellcheck source=cmd.sh
. "$utils/cmd.sh"

stage_options() { # last stage by default
    option stage stage 1 "first stage to run, number or name"
    option stop_stage stage "$1" "last stage to run; if --stage is a later one, that one"
    option force bool false "do again what is done"
    option dry_run bool false "print the commands of each stage, run nothing"
}

machine_options() {
    option nj int+ "$((OMP_NUM_THREADS < 8 ? OMP_NUM_THREADS : 8))" "parallel jobs; they share the cores"
    option ngpu int "$(list_gpus | grep -c . || true)" "GPUs to use, one per job; 0 computes on the CPU"
    option device word auto "auto: cuda if there are GPUs, else cpu; or what PyTorch calls it"
    option seed int 1 "of everything that is drawn"
}

log() { printf '%s: %s\n' "$(date '+%F %T')" "$*" >&2; }

# The arguments as one line that can be pasted: quoted where the shell would need it.
quote() {
    local word line=""
    for word in "$@"; do
        if [[ ! $word =~ ^[-+=:,./@%_A-Za-z0-9]+$ ]]; then word="'${word//\'/\'\\\'\'}'"; fi
        line+="$word "
    done
    printf '%s' "${line% }"
}

# Prints a command and runs it; with --dry-run true prints only.
run() {
    if [[ $dry_run == true ]]; then
        quote "$@"
        echo
    else
        log "$(quote "$@")"
        "$@" || stage_failed $?
    fi
}

speechmerge() { run python -m speechmerge "$@"; }

# Jobs of the library through a job back end: run_jobs "$train_cmd" JOB=1:4 exp/log/x.JOB.log train ...
# A caller may have its own `processes` and `nodes` of each job, and `in_turn` where one job at once has this machine.
processes=1 nodes=1 in_turn=false
run_jobs() {
    local backend lists=() each=$processes at_once=$nj program=(python -m speechmerge)
    read -ra backend <<<"$1"
    if [[ $in_turn == true && $cmd_backend == local ]]; then at_once=1; fi
    if [[ $ngpu -gt 0 && $device == cuda && $cmd_backend == slurm ]]; then
        backend+=(--gpu "$each") # GPUs of the cluster, not of this machine
    elif [[ $ngpu -gt 0 && $device == cuda ]]; then
        backend+=(--gpu "$each")
        if ((at_once > ngpu / each && ngpu >= each)); then at_once=$((ngpu / each)); fi
    fi
    backend+=(--max-jobs-run "$at_once")
    if ((nodes > 1)); then backend+=(--nodes "$nodes"); fi
    if ((nodes * each > 1)); then program=(torchrun.sh --processes "$each"); fi
    shift
    while [[ $1 == *=* ]]; do
        lists+=("$1")
        shift
    done
    run "${backend[@]}" ${lists[@]+"${lists[@]}"} "$1" "${program[@]}" "${@:2}"
}

# Into the caller's `lists`, `file` and `files`: one job for each of some configs. config_lists MERGE merge "uniform ties"
# makes lists=(MERGE=uniform,ties), file=conf/merge/MERGE.yaml and the files themselves; where some are the recipe's and
# some are shared, file=CONFIG.
config_lists() {
    local name
    files=()
    for name in $3; do files+=("$(config "$2" "$name")"); done
    # shellcheck disable=SC2086 # a list
    lists=("$1=$(join $3)")
    file=${files[0]%/*}/$1.yaml
    for name in "${files[@]}"; do
        if [[ ${name%/*} != "${files[0]%/*}" ]]; then file=CONFIG; fi
    done
    if [[ $file == CONFIG ]]; then lists+=("CONFIG=$(join "${files[@]}")"); fi
}

# The merges that --merges names: merge_all data_dir adapter...; first what their methods need measured of the adapters.
merge_all() {
    local file files words=() lists data=$1
    shift
    if [[ -z $merges ]]; then
        skip "no --merges, nothing to do"
        return
    fi
    config_lists MERGE merge "$merges"
    if grep -qE '^method: *(fisher|regmean)' "${files[@]}"; then
        add_configs statistics
        words+=(--merges "${files[@]}" --adapters "$@" --model "$model" --data "$data" --exp-dir "$exp_dir" --device "$device")
        run_jobs "$train_cmd" "$exp_dir/log/statistics.log" statistics "${words[@]}"
        words=()
    fi
    local ngpu=0 # merges are made on the CPU, in any case
    words+=(--config "$file" --adapters "$@" --data "$data" --exp-dir "$exp_dir" --force "$force")
    add_words "$merge_args"
    run_jobs "$train_cmd" "${lists[@]}" "$exp_dir/log/merge.MERGE.log" merge "${words[@]}"
}

# The searches that --sweeps names: sweep_all data_dir "judged sets" adapter...; the best point becomes a merge.
sweep_all() {
    local lists file files judged words=() in_turn=true
    config_lists SWEEP sweep "$sweeps"
    read -ra judged <<<"$2"
    words+=(--config "$file")
    add_configs decode
    words+=(--adapters "${@:3}" --eval-tasks "${judged[@]}" --model "$model" --data "$1" --split "$dev_split")
    words+=(--exp-dir "$exp_dir" --device "$device" --force "$force" --save-merged true)
    run_jobs "$train_cmd" "${lists[@]}" "$exp_dir/log/sweep.SWEEP.log" merge-sweep "${words[@]}"
}

stage_failed() { # status
    if (($1 > 128)); then log "interrupted in stage $current ($current_name)"; fi
    if (($1 <= 128)); then log "stage $current ($current_name) failed with status $1, the reason stands above"; fi
    log "go on with: $recipe --stage $current and the other options as before"
    exit "$1"
}

skip() {
    if [[ $dry_run == true ]]; then echo "# $*"; else log "Stage $current: $current_name: $*"; fi
}

# Appends the words of a string to the caller's array `words`.
add_words() {
    local more
    read -ra more <<<"$1"
    words+=(${more[@]+"${more[@]}"})
}

# Appends the configs of a verb: what all recipes share, then the recipe's own.
add_configs() {
    if [[ -e $SPEECHMERGE_ROOT/conf/$1.yaml ]]; then words+=(--config "$(relative_root)/conf/$1.yaml"); fi
    if [[ -e conf/$1.yaml ]]; then words+=(--config "conf/$1.yaml"); fi
}

# With --mini true: what the miniatures and their base need, after everything that is meant for the corpus itself.
add_mini_configs() {
    if [[ $mini != true ]]; then return; fi
    if [[ -e $SPEECHMERGE_ROOT/conf/mini/$1.yaml ]]; then words+=(--config "$(relative_root)/conf/mini/$1.yaml"); fi
    if [[ -e conf/mini/$1.yaml ]]; then words+=(--config "conf/mini/$1.yaml"); fi
}

relative_root() { # from the recipe: ../..
    if [[ $PWD == "$SPEECHMERGE_ROOT"/* ]]; then
        printf '%s\n' "${PWD#"$SPEECHMERGE_ROOT"/}" | sed 's#[^/][^/]*#..#g'
    else
        printf '%s\n' "$SPEECHMERGE_ROOT"
    fi
}

# The config file conf/<$1>/<$2>.yaml: the recipe's own, or the one that all recipes share; status 1 if there is none.
config() {
    local folder
    for folder in conf "$(relative_root)/conf"; do
        if [[ -e $folder/$1/$2.yaml ]]; then
            printf '%s\n' "$folder/$1/$2.yaml"
            return
        fi
    done
    return 1
}

# Names of the configs that option $2 chooses with the value $3: a list of names, or `all` of the recipe's own conf/<$1>.
config_names() {
    local file name known="" own=""
    for file in conf/"$1"/*.yaml "$SPEECHMERGE_ROOT/conf/$1"/*.yaml; do
        if [[ ! -e $file ]]; then continue; fi
        known+=" $(basename -- "$file" .yaml)"
        if [[ $file == conf/* ]]; then own=$known; fi
    done
    if [[ $3 == all ]]; then
        printf '%s\n' "${own# }"
        return
    fi
    for name in $3; do
        if ! config "$1" "$name" >/dev/null; then usage_error "$2: there is no conf/$1/$name.yaml; there is:${known:- none}"; fi
    done
    printf '%s\n' "$3"
}

join() { local IFS=, && printf '%s' "$*"; } # by commas

chosen_device() {
    if [[ $device != auto ]]; then
        printf '%s\n' "$device"
    elif ((ngpu > 0)); then
        echo cuda
    else
        echo cpu
    fi
}

# The recipe sets its defaults in a function, so that nothing of the environment becomes an option and a misspelt
# name is found.
apply_defaults() {
    local _before _name
    _before=" $(compgen -v | tr '\n' ' ') "
    if declare -F defaults >/dev/null; then defaults; fi
    for _name in $(compgen -v); do
        if [[ $_name =~ ^[a-z] && $_before != *" $_name "* ]]; then
            usage_error "defaults() sets '$_name', which is no option$(hint "$_name") (a variable of your own: local $_name)"
        fi
    done
    check_defaults
}

hint() {
    local near
    near=$(nearest_option "$1")
    if [[ -n $near ]]; then printf ': did you mean %s?' "${near//-/_}"; fi
}

check_range() {
    if [[ -z ${option_given[stop_stage]-} ]] && ((stage > stop_stage)); then stop_stage=$stage; fi
    if ((stage > stop_stage)); then
        usage_error "--stage $stage (${stage_names[stage - 1]}) comes after --stop-stage $stop_stage" \
            "(${stage_names[stop_stage - 1]}): nothing would run"
    fi
}

main() {
    local start=$SECONDS stage_start
    recipe=./$(basename -- "$0")
    export SPEECHMERGE_RUN=$$ # jobs end when this shell does
    apply_defaults
    parse_options "$@"
    check_range
    if declare -F check_options >/dev/null; then check_options; fi
    if [[ $dry_run == false ]]; then ensure_environment; fi
    for ((current = stage; current <= stop_stage; current++)); do
        current_name=${stage_names[current - 1]}
        stage_start=$SECONDS
        if [[ $dry_run == true ]]; then
            printf '# Stage %d: %s: %s\n' "$current" "$current_name" "${stage_help[$current_name]}"
        else
            log "Stage $current: $current_name: ${stage_help[$current_name]}"
        fi
        "do_$current_name"
        if [[ $dry_run == false ]]; then log "Stage $current: $current_name: $((SECONDS - stage_start)) s"; fi
    done
    if [[ $dry_run == true ]]; then return; fi
    log "Finished in $((SECONDS - start)) s. $(where_results_are)"
}

where_results_are() {
    local page=$exp_dir/report/index.html
    if [[ $page != /* ]]; then page=$PWD/$page; fi
    if [[ -e $page ]]; then printf 'Results: %s' "$page"; else printf 'Results: %s' "$(dirname -- "$(dirname -- "$page")")"; fi
}
