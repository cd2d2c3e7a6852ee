# The stages of a recipe. Sourced by egs/<corpus>/run.sh, which stands in its own folder and has defined defaults().
# shellcheck shell=bash disable=SC2154 # options are variables

# shellcheck source=stages.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stages.sh"

stage "data|prepare" "data/<task>/<split> from the corpus"
stage format "16 kHz mono audio, durations, checks"
stage train "one adapter per task"
stage merge "the merges of conf/merge"
stage route "routers"
stage decode "hypotheses of base, adapters and merges on every task"
stage score "scores, interference and the report"
stage analyze "what the adapters have in common"
stage pack "folders to share, with model cards"

stage_options score
option corpus path "" "corpus to prepare: a name, or a file such as local/corpus.py; empty: data/ is made by local/data.sh or by hand"
option corpus_dir path "" "where the corpus lies or is fetched to"
option mini bool false "use the spoken miniature of the corpus and the mini base, in data/mini and exp/mini"
option source one:files\|hf files "the corpus as published, or its version on Hugging Face"
option model path base "pre-trained model: a folder or a name on the hub"
option tasks words "" "tasks, or sets such as languages: data/<task>/<split>"
option task word "" "the task of all --tasks, where they are sets; empty: as they are called"
option adapters words "" "which of --tasks get an adapter; empty: all"
option train_split word train "split to train on"
option dev_split word dev "split to choose checkpoints and coefficients on"
option splits words test "splits to decode and score"
option merges words all "merges to make: names of conf/merge/*.yaml, here or at the top; all: those here"
option sweeps words "" "searches of coefficients on the dev split: names of conf/sweep/*.yaml; part of stage merge"
option systems words all "systems to decode: base, adapters, merges, or all"
option routers words "" "routers to train: names of conf/route/*.yaml"
option analyses words "" "analyses: names of conf/analyze/*.yaml"
option pack words "" "systems to pack"
option data_dir path data "data directories"
option exp_dir path exp "everything that is made from them"
machine_options
option prepare_args args "" "more arguments for prepare, or for local/data.sh"
option format_args args "" "more arguments for format, as \"--hours train=10,dev=1\""
option train_ngpu int+ 1 "GPUs of each training (without GPUs: processes), which share its batches; with slurm on each node"
option num_nodes int+ 1 "nodes of each training (slurm)"
option train_args args "" 'more arguments for train, as "--rank 16 --epochs 3"'
option merge_args args "" "more arguments for merge"
option decode_args args "" "more arguments for decode"

check_options() {
    if [[ -z $tasks ]]; then usage_error "--tasks is empty: name at least one (a folder data/<task>/<split>)"; fi
    read -ra task_list <<<"$tasks"
    read -ra adapter_list <<<"${adapters:-$tasks}"
    read -ra split_list <<<"$splits"
    if ((${#split_list[@]} == 0)); then usage_error "--splits is empty: name at least one"; fi
    last_split=${split_list[${#split_list[@]} - 1]} # the one that is reported
    read -ra system_list <<<"$systems"
    merges=$(config_names merge --merges "$merges") || exit
    sweeps=$(config_names sweep --sweeps "$sweeps") || exit
    routers=$(config_names route --routers "$routers") || exit
    analyses=$(config_names analyze --analyses "$analyses") || exit
    if [[ $mini == true ]]; then mini_defaults; fi
    device=$(chosen_device)
    if [[ $num_nodes -gt 1 && $cmd_backend != slurm ]]; then usage_error "--num-nodes $num_nodes: needs a cluster, cmd_backend=slurm; this machine is one"; fi
}

# The miniature is for the small base, and never lies where the corpus itself would.
mini_defaults() {
    if [[ -z ${option_given[model]-} ]]; then model=$(relative_root)/egs/mini/base; fi
    if [[ -z ${option_given[corpus_dir]-} ]]; then corpus_dir=""; fi
    if [[ -z ${option_given[data_dir]-} ]]; then data_dir=data/mini; fi
    if [[ -z ${option_given[exp_dir]-} ]]; then exp_dir=exp/mini; fi
}

do_data() {
    local words=()
    if [[ -x local/download.sh && -n $corpus_dir ]]; then
        if [[ ! -e $corpus_dir || $model == downloads/* && ! -e $model ]]; then run local/download.sh "$corpus_dir"; fi
    fi
    if [[ -n $corpus_dir ]]; then words+=(--corpus-dir "$corpus_dir"); fi
    words+=(--nj "$nj")
    if [[ -n $corpus ]]; then
        words+=(--seed "$seed" --force "$force")
        if [[ -n $task ]]; then words+=(--tasks "$task" --languages "${task_list[@]}"); else words+=(--tasks "${task_list[@]}"); fi
        if [[ $mini == true ]]; then words+=(--param mini=true); fi
        if [[ $source != files ]]; then words+=(--param "source=$source"); fi
        add_words "$prepare_args"
        speechmerge prepare --corpus "$corpus" --output-dir "$data_dir" "${words[@]}"
    elif [[ -x local/data.sh ]]; then
        add_words "$prepare_args"
        run local/data.sh --data-dir "$data_dir" "${words[@]}"
    else
        skip "no --corpus and no local/data.sh: $data_dir/<task>/<split> is used as it is"
    fi
}

do_format() {
    local task split directories=() words=()
    add_configs format
    for task in "${task_list[@]}"; do
        for split in "$train_split" "$dev_split" "${split_list[@]}"; do
            if [[ " ${directories[*]-} " != *" $data_dir/$task/$split "* ]]; then directories+=("$data_dir/$task/$split"); fi
        done
    done
    words+=(--data "${directories[@]}" --nj "$nj" --force "$force")
    add_words "$format_args"
    speechmerge format "${words[@]}"
}

do_train() {
    local words=() lists name configs=() minis=() processes=$train_ngpu nodes=$num_nodes
    lists=("TASK=$(join "${adapter_list[@]}")")
    add_configs train
    for name in "${adapter_list[@]}"; do
        if [[ -e conf/train_$name.yaml ]]; then configs+=("conf/train_$name.yaml"); else configs+=(conf/train.yaml); fi
    done
    if [[ ${configs[*]} == *conf/train_* ]]; then # some tasks have more to say than conf/train.yaml
        lists+=("CONFIG=$(join "${configs[@]}")")
        words+=(--config CONFIG)
    fi
    add_mini_configs train
    for name in "${adapter_list[@]}"; do
        if [[ -e conf/mini/train_$name.yaml ]]; then minis+=("conf/mini/train_$name.yaml"); else minis+=("$(relative_root)/conf/mini/train.yaml"); fi
    done
    if [[ $mini == true && ${minis[*]} == *conf/mini/train_* ]]; then
        lists+=("MINI=$(join "${minis[@]}")")
        words+=(--config MINI)
    fi
    if [[ -n $task ]]; then
        words+=(--task "$task" --name TASK --output-dir "$exp_dir/$task/TASK")
    else
        words+=(--task TASK --output-dir "$exp_dir/TASK/lora")
    fi
    words+=(--model "$model" --data "$data_dir/TASK/$train_split" --dev "$data_dir/TASK/$dev_split")
    words+=(--exp-dir "$exp_dir" --seed "$seed" --device "$device" --force "$force")
    add_words "$train_args"
    run_jobs "$train_cmd" "${lists[@]}" "$exp_dir/log/train.TASK.log" train "${words[@]}"
}

do_merge() {
    merge_all "$data_dir" "${adapter_list[@]}"
    # judged are the sets that have an adapter of their own
    if [[ -n $sweeps ]]; then sweep_all "$data_dir" "${adapter_list[*]}" "${adapter_list[@]}"; fi
}

do_route() {
    local lists file files words=() in_turn=true
    if [[ -z $routers ]]; then
        skip "no --routers, nothing to do"
        return
    fi
    config_lists ROUTER route "$routers"
    words+=(--model "$model" --tasks "${task_list[@]}" --data "$data_dir" --exp-dir "$exp_dir" --output-dir "$exp_dir/router/ROUTER")
    words+=(--seed "$seed" --device "$device" --force "$force")
    run_jobs "$train_cmd" "${lists[@]}" "$exp_dir/log/route.ROUTER.log" train-router --config "$file" "${words[@]}"
}

do_decode() {
    local split words=()
    add_configs decode
    add_mini_configs decode
    words+=(--model "$model" --systems "${system_list[@]}" --tasks "${task_list[@]}" --data "$data_dir" --exp-dir "$exp_dir")
    words+=(--device "$device" --force "$force")
    if [[ -n $task ]]; then words+=(--task "$task"); fi
    add_words "$decode_args"
    for split in "${split_list[@]}"; do
        run_jobs "$decode_cmd" "JOB=1:$nj" "$exp_dir/log/decode.$split.JOB.log" decode "${words[@]}" \
            --split "$split" --shard "JOB/$nj"
    done
}

do_score() {
    local split words=()
    add_configs score
    add_mini_configs score
    for split in "${split_list[@]}"; do
        speechmerge score ${words[@]+"${words[@]}"} --tasks "${task_list[@]}" --split "$split" --exp-dir "$exp_dir"
    done
    write_report
}

write_report() {
    speechmerge report --data "$data_dir" --split "$last_split" --dev-split "$dev_split" --exp-dir "$exp_dir" \
        --output-dir "$exp_dir/report"
}

do_analyze() {
    local lists file files words=() in_turn=true
    if [[ -z $analyses ]]; then
        skip "no --analyses, nothing to do"
        return
    fi
    config_lists ANALYSIS analyze "$analyses"
    words+=(--config "$file")
    add_configs decode
    add_mini_configs decode
    words+=(--model "$model" --adapters "${adapter_list[@]}" --data "$data_dir" --exp-dir "$exp_dir" --device "$device" --force "$force")
    if [[ -n $task ]]; then words+=(--task "$task"); fi
    run_jobs "$decode_cmd" "${lists[@]}" "$exp_dir/log/analyze.ANALYSIS.log" analyze "${words[@]}" \
        --output-dir "$exp_dir/analysis/ANALYSIS"
    if [[ -e $exp_dir/scores_$last_split.json ]]; then write_report; fi # with the analyses
}

do_pack() {
    local name
    for name in $pack; do
        speechmerge pack --system "$name" --model "$model" --exp-dir "$exp_dir" --output-dir "$exp_dir/packed/$name" --force "$force"
    done
    if [[ -z $pack ]]; then skip "no --pack, nothing to do"; fi
}

main "$@"
