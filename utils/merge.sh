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
    read -ra adapter_list <<<"$adapters"
    read -ra task_list <<<"$tasks"
    read -ra split_list <<<"$splits"
    read -ra data_list <<<"$data_dirs"
    count=${#task_list[@]}
    if ((${#adapter_list[@]} == 0)); then usage_error "--adapters is empty: name the folders of the adapters to merge"; fi
    if ((count == 0)); then usage_error "--tasks is empty: name at least one (a folder <data dir>/<task>/<split>)"; fi
    if ((${#data_list[@]} != 1 && ${#data_list[@]} != count)); then usage_error "--data-dirs: found ${#data_list[@]}, expected 1 or $count, as many as --tasks"; fi
    merges=$(config_names merge --merges "$merges") || exit
    sweeps=$(config_names sweep --sweeps "$sweeps") || exit
    if [[ -n $sweeps && $data_dirs == *' '* ]]; then usage_error "--sweeps read one data directory, found --data-dirs $data_dirs"; fi
    device=$(chosen_device)
}

do_collect() {
    speechmerge collect --adapters "${adapter_list[@]}" --exp-dir "$exp_dir"
}

# One job per task: decode_all baselines base adapters
decode_all() {
    local split data=${data_list[0]} words=() lists
    lists=("TASK=$(join "${task_list[@]}")")
    if [[ $data_dirs == *' '* ]]; then
        lists+=("DATA=$(join "${data_list[@]}")")
        data=DATA
    fi
    add_configs decode
    words+=(--model "$model" --systems "${@:2}" --tasks TASK --data "$data" --exp-dir "$exp_dir" --device "$device" --force "$force")
    if [[ -n $task ]]; then words+=(--task "$task"); fi
    add_words "$decode_args"
    for split in "${split_list[@]}"; do
        run_jobs "$decode_cmd" "${lists[@]}" "$exp_dir/log/$1.$split.TASK.log" decode "${words[@]}" --split "$split"
    done
}

do_baselines() { decode_all baselines base adapters; }

do_merge() { merge_all "${data_list[0]}" "${adapter_list[@]}"; }

do_coefficients() {
    if [[ -z $sweeps ]]; then skip "no --sweeps, nothing to do"; else sweep_all "${data_list[0]}" "${adapter_list[@]}"; fi
}

do_evaluate() {
    local split
    decode_all merged merged
    for split in "${split_list[@]}"; do
        speechmerge score --tasks "${task_list[@]}" --split "$split" --exp-dir "$exp_dir"
    done
}

do_report() {
    speechmerge report --data "${data_list[0]}" --split "${split_list[0]}" --dev-split "$dev_split" --exp-dir "$exp_dir" \
        --output-dir "$exp_dir/report"
}

main "$@"
