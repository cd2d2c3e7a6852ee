#!/usr/bin/env bash
# Speech-FT (arXiv 2502.12672): an upstream is fine-tuned on TED-LIUM's ASR, drawn back towards its pre-trained weights, and
# asked what it still knows: a small head per task on the frozen upstream, as in SUPERB.
#
#   ./speech_ft.sh --mini true                      a small HuBERT on spoken miniatures: offline, two CPU cores
#   ./speech_ft.sh                                  HuBERT base; the other recipes' data must be there (README)
#   ./speech_ft.sh --alphas "0 0.1 0.25 1" --baselines "early l2 lora dora" --superb-tasks "phones asr speaker_id"
#   ./speech_ft.sh --help                           all options
# shellcheck disable=SC2154 # options are variables
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/stages.sh ]]; do root=${root%/*}; done

# shellcheck source=../../utils/stages.sh
. "$root/utils/stages.sh"

stage "data|prepare" "TED-LIUM; with --mini true also the cross-task data"
stage format "16 kHz mono audio, durations, checks; phones where there is a lexicon"
stage train "stable fine-tuning, and the baselines that are trained"
stage merge "one upstream per alpha: theta_0 + alpha (theta - theta_0)"
stage decode "a head per upstream and task, trained and decoded"
stage score "the cross-task table, the SUPERB score, the curve over alpha"

stage_options score
option corpus_dir path downloads "where TEDLIUM_release-3 lies or is fetched to"
option mini bool false "spoken miniatures and the small upstream of egs/mini, in data/mini and exp/mini"
option model path facebook/hubert-base-ls960 "upstream: a folder or a name on the hub (HuBERT, wav2vec 2.0, WavLM)"
option alphas words "0 0.25 0.5 0.75 1" "how far to go from the pre-trained upstream (0) to the fine-tuned one (1)"
option baselines words "" "what to compare with: early (after a quarter and a half of the steps), l2, lora, dora"
option superb_tasks words "phones asr kws speaker_id speaker_ver emotion intent slu" "tasks of the cross-task table; with --mini true those but asr and slu, for which the miniatures are too small"
option superb_data words "" "their data, TASK=DIR with DIR/{train,dev,test}; default: that of the other recipes"
option filterbanks bool true "also the same heads on filterbanks (s3prl:fbank), the zero of the anchored score"
option lexicon path "" "of the phones, as librispeech-lexicon.txt; empty: espeak-ng's phones"
option data_dir path data "data directories"
option exp_dir path exp/speech_ft "everything that is made from them"
machine_options
option prepare_args args "" "more arguments for prepare"
option train_args args "" "more arguments for the fine-tuning"
option head_options args "{}" "more options for the heads, such as {epochs: 3}"

check_options() {
    local name
    if [[ $mini == true && -z ${option_given[superb_tasks]-} ]]; then superb_tasks="phones kws speaker_id speaker_ver emotion intent"; fi
    read -ra task_list <<<"$superb_tasks"
    if ((${#task_list[@]} == 0)); then usage_error "--superb-tasks is empty: name at least one"; fi
    for name in $alphas; do
        if [[ ! $name =~ ^[0-9]+(\.[0-9]+)?$ ]]; then usage_error "--alphas: expected numbers from 0 up, found '$name'"; fi
    done
    for name in $baselines; do
        if [[ ! $name =~ ^(early|l2|lora|dora)$ ]]; then usage_error "--baselines: expected some of early, l2, lora, dora, found '$name'"; fi
    done
    for name in $superb_data; do
        if [[ $name != *=* ]]; then usage_error "--superb-data: expected TASK=DIR, found '$name'"; fi
    done
    if [[ $mini == true ]]; then
        if [[ -z ${option_given[model]-} ]]; then model=$(relative_root)/egs/mini/upstream; fi
        if [[ -z ${option_given[data_dir]-} ]]; then data_dir=data/mini; fi
        if [[ -z ${option_given[exp_dir]-} ]]; then exp_dir=exp/mini/speech_ft; fi
    fi
    device=$(chosen_device)
}

# Where a task's data lies: as --superb-data says, else the miniature's, else the other recipe's.
data_of() { # task
    local entry
    for entry in $superb_data; do
        if [[ ${entry%%=*} == "$1" ]]; then
            printf '%s\n' "${entry#*=}"
            return
        fi
    done
    if [[ $mini == true ]]; then
        case $1 in
            phones) printf '%s\n' "$data_dir/superb/asr" ;;
            *) printf '%s\n' "$data_dir/superb/$1" ;;
        esac
        return
    fi
    case $1 in
        phones | asr) echo ../librispeech/data/asr ;;
        kws) echo ../speech_commands/data/kws ;;
        speaker_id | speaker_ver) echo "../voxceleb/data/$1" ;;
        emotion) echo ../iemocap/data/emotion ;;
        intent | slu) echo "../slurp/data/$1" ;;
        *) echo "$data_dir/$1" ;;
    esac
}

do_data() {
    local words=(--nj "$nj" --seed "$seed" --force "$force")
    if [[ $mini == true ]]; then
        speechmerge prepare --corpus tedlium --output-dir "$data_dir" --tasks asr --param mini=true "${words[@]}"
        mini_data "${words[@]}"
    else
        add_words "$prepare_args"
        speechmerge prepare --corpus tedlium --output-dir "$data_dir" --tasks asr --corpus-dir "$corpus_dir" "${words[@]}"
    fi
}

# The other corpora of the cross-task table: read English, as another one than the talks; commands; the mini corpus.
mini_data() {
    local task own=()
    for task in "${task_list[@]}"; do
        case " $superb_data " in *" $task="*) continue ;; esac
        case $task in
            phones | asr) speechmerge prepare --corpus librispeech --output-dir "$data_dir/superb" --tasks asr --param mini=true "$@" ;;
            slu) speechmerge prepare --corpus slurp --output-dir "$data_dir/superb" --tasks slu --param mini=true "$@" ;;
            *) own+=("$task") ;;
        esac
    done
    if ((${#own[@]})); then speechmerge prepare --corpus mini --output-dir "$data_dir/superb" --tasks "${own[@]}" "$@"; fi
}

do_format() {
    local folder
    speechmerge format --data "$data_dir"/asr/{train,dev,test} --nj "$nj" --force "$force"
    if [[ -n $lexicon && " ${task_list[*]} " == *' phones '* ]]; then
        folder=$(data_of phones)
        speechmerge phones --data "$folder"/{train,dev,test} --lexicon "$lexicon"
    fi
}

do_train() {
    local name names=(stable) configs=(conf/speech_ft/train.yaml) words=()
    for name in $baselines; do
        if [[ $name != early ]]; then
            names+=("$name")
            configs+=("conf/speech_ft/train_$name.yaml")
        fi
    done
    words=(--task asr --model "$model" --data "$data_dir/asr/train" --dev "$data_dir/asr/dev")
    words+=(--config conf/speech_ft/train.yaml --config CONFIG)
    if [[ $mini == true ]]; then words+=(--config conf/mini/speech_ft/train.yaml); fi
    words+=(--exp-dir "$exp_dir" --name NAME --output-dir "$exp_dir/asr/NAME")
    words+=(--seed "$seed" --device "$device" --force "$force")
    add_words "$train_args"
    run_jobs "$train_cmd" "NAME=$(join "${names[@]}")" "CONFIG=$(join "${configs[@]}")" "$exp_dir/log/train.NAME.log" train "${words[@]}"
}

do_merge() {
    local alpha name
    for alpha in $alphas; do
        if [[ $alpha =~ ^0(\.0+)?$ ]]; then continue; fi # the pre-trained upstream itself
        interpolate "$exp_dir/asr/stable" "$alpha" "alpha$alpha"
    done
    for name in $baselines; do # an adapter's upstream is its sum with the base
        if [[ $name == lora || $name == dora ]]; then interpolate "$exp_dir/asr/$name" 1 "$name"; fi
    done
}

interpolate() { # fine-tuned alpha name
    speechmerge merge --config "$(relative_root)/conf/merge/interpolate.yaml" --adapters "$1" --base "$model" --param "alpha=$2" --save full \
        --exp-dir "$exp_dir" --output-dir "$exp_dir/upstreams/$3" --force "$force"
}

# The upstreams of the table as NAME=FOLDER words.
upstreams() {
    local alpha name folder
    for alpha in $alphas; do
        if [[ $alpha =~ ^0(\.0+)?$ ]]; then echo "alpha0=$model"; else echo "alpha$alpha=$exp_dir/upstreams/alpha$alpha"; fi
    done
    for name in $baselines; do
        case $name in
            early) for folder in "$exp_dir"/asr/stable/at_*; do echo "early_${folder##*at_}=$folder"; done ;;
            l2) echo "l2=$exp_dir/asr/l2" ;;
            *) echo "$name=$exp_dir/upstreams/$name" ;;
        esac
    done
    if [[ $filterbanks == true ]]; then echo "fbank=s3prl:fbank"; fi
}

# What `superb` is called with in both stages, in the caller's array `words`.
superb_words() {
    local task zero=""
    words=(--upstreams)
    mapfile -t -O 1 words < <(upstreams)
    words+=(--tasks)
    for task in "${task_list[@]}"; do words+=("$task=$(data_of "$task")"); done
    words+=(--conf conf/superb)
    if [[ $mini == true ]]; then words+=(conf/mini/superb); fi
    words+=(--exp-dir "$exp_dir/superb" --train-options "$head_options" --seed "$seed" --device "$device")
    for task in $alphas; do if [[ $task =~ ^0(\.0+)?$ ]]; then zero=alpha0; fi; done
    if [[ $filterbanks == true && -n $zero ]]; then words+=(--low fbank --high alpha0); fi
}

do_decode() {
    local words
    superb_words
    run_jobs "$decode_cmd" "JOB=1:$nj" "$exp_dir/log/superb.JOB.log" superb "${words[@]}" --shard "JOB/$nj" --force "$force"
}

do_score() {
    local words
    superb_words
    speechmerge superb "${words[@]}"
}

where_results_are() { printf 'Results: %s/superb/superb.{md,json,png}' "$exp_dir"; }

main "$@"
