# The stages of merging adapters of several recipes. Sourced by egs/<x>/merge.sh, which has defined defaults().
# shellcheck shell=bash disable=SC2154 # options are variables

# shellcheck source=stages.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stages.sh"

stage collect "the adapters, checked and entered in adapters.json"
stage baselines "hypotheses of the base and of each adapter on every task"
stage merge "the merges of conf/merge"
stage coefficients "coefficients searched on the dev split, conf/sweep"
stage evaluate "hypotheses of the merges on every task, scores"
stage report "the page and RESULTS.md"

stage_options report
option model path base "pre-trained model of all adapters: a folder or a name on the hub"
option recipes words "" "recipe:task ..., whose adapters are merged: egs/<recipe>/run.sh trains the missing ones; instead of --adapters"
option mini bool false "of --recipes the spoken miniatures, on the mini base, in exp/mini"
option adapters words "" "folders of adapters, such as ../mini/exp/asr/lora"
option tasks words "" "tasks, or sets, to evaluate on: <data dir>/<task>/<split>"
option task word "" "the task of all --tasks, where they are sets; empty: as they are called"
option data_dirs words data "data directories: one for all tasks, or one for each"
option splits words test "splits to decode and score"
option dev_split word dev "split to choose coefficients on"
option merges words all "merges to make: names of conf/merge/*.yaml, here or at the top; all: those here"
option sweeps words all "sweeps to make: names of conf/sweep/*.yaml"
option exp_dir path exp "everything that is made"
machine_options
option merge_args args "" "more arguments for merge"
option decode_args args "" "more arguments for decode"

check_options() {
    local count
    if [[ $mini == true ]]; then mini_defaults; fi
    if [[ -n $recipes ]]; then from_recipes; fi
    read -ra adapter_list <<<"$adapters"
    read -ra task_list <<<"$tasks"
    read -ra split_list <<<"$splits"
    read -ra data_list <<<"$data_dirs"
    count=${#task_list[@]}
    if ((${#adapter_list[@]} == 0)); then usage_error "--adapters is empty: name the folders of the adapters to merge"; fi
    if ((count == 0)); then usage_error "--tasks is empty: name at least one (a folder <data dir>/<task>/<split>)"; fi
    if ((${#data_list[@]} != 1 && ${#data_list[@]} != count)); then usage_error "--data-dirs: found ${#data_list[@]}, expected 1 or $count, as many as --tasks"; fi
    if ((${#data_list[@]} > 1)); then data=$exp_dir/data; else data=${data_list[0]}; fi
    merges=$(config_names merge --merges "$merges") || exit
    sweeps=$(config_names sweep --sweeps "$sweeps") || exit
    device=$(chosen_device)
}

mini_defaults() {
    if [[ -z ${option_given[model]-} ]]; then model=$(relative_root)/egs/mini/base; fi
    if [[ -z ${option_given[exp_dir]-} ]]; then exp_dir=exp/mini; fi
}

# --adapters, --tasks and --data-dirs from --recipes "iemocap:emotion slurp:intent".
from_recipes() {
    local pair recipe task below=""
    if [[ $mini == true ]]; then below=/mini; fi
    for task in adapters tasks data_dirs; do
        if [[ -n ${option_given[$task]-} ]]; then usage_error "--${task//_/-}: follows from --recipes; give one of them"; fi
    done
    adapters="" tasks="" data_dirs=""
    for pair in $recipes; do
        recipe=${pair%%:*} task=${pair#*:}
        if [[ $pair != ?*:?* || ! -e ../$recipe/run.sh ]]; then usage_error "--recipes: found $pair, expected recipe:task with egs/<recipe>/run.sh"; fi
        adapters+=" ../$recipe/exp$below/$task/lora"
        tasks+=" $task"
        data_dirs+=" ../$recipe/data$below"
    done
}

do_collect() {
    local number place
    if [[ -n $recipes ]]; then train_missing; fi
    speechmerge collect --adapters "${adapter_list[@]}" --exp-dir "$exp_dir"
    if ((${#data_list[@]} == 1)); then return; fi
    run mkdir -p "$data"
    for number in "${!task_list[@]}"; do # one folder in which the others lie, for what reads all of them
        place=${data_list[number]}/${task_list[number]}
        if [[ $place != /* ]]; then place=$PWD/$place; fi
        run ln -sfn "$place" "$data/${task_list[number]}"
    done
}

# The recipes make what is not there: data and adapter, with their own settings on this model.
train_missing() {
    local number words=(--stage 1 --stop-stage 3 --nj "$nj" --ngpu "$ngpu")
    if [[ $mini == true ]]; then words+=(--mini true); else words+=(--model "$model"); fi
    for number in "${!task_list[@]}"; do
        if [[ ! -e ${adapter_list[number]}/done.json ]]; then
            run "${data_list[number]%%/data*}/run.sh" --tasks "${task_list[number]}" "${words[@]}"
        fi
    done
}

# One job per task: decode_all baselines base adapters
decode_all() {
    local split words=()
    add_configs decode
    add_mini_configs decode
    words+=(--model "$model" --systems "${@:2}" --tasks TASK --data "$data" --exp-dir "$exp_dir" --device "$device" --force "$force")
    if [[ -n $task ]]; then words+=(--task "$task"); fi
    add_words "$decode_args"
    for split in "${split_list[@]}"; do
        run_jobs "$decode_cmd" "TASK=$(join "${task_list[@]}")" "$exp_dir/log/$1.$split.TASK.log" decode "${words[@]}" --split "$split"
    done
}

do_baselines() { decode_all baselines base adapters; }

do_merge() { merge_all "$data" "${adapter_list[@]}"; }

do_coefficients() {
    if [[ -z $sweeps ]]; then skip "no --sweeps, nothing to do"; else sweep_all "$data" "${task_list[*]}" "${adapter_list[@]}"; fi
}

do_evaluate() {
    local split
    decode_all merged merged
    for split in "${split_list[@]}"; do
        speechmerge score --tasks "${task_list[@]}" --split "$split" --exp-dir "$exp_dir"
    done
}

do_report() {
    speechmerge report --data "$data" --split "${split_list[-1]}" --dev-split "$dev_split" --exp-dir "$exp_dir" \
        --output-dir "$exp_dir/report"
}

main "$@"
