# Typed command-line options for shell scripts (bash 4). To be sourced. An option is declared once, with its help:
#
#     stage  train "one adapter per task"                 # the stages, in order; numbered 1, 2, ...
#     option nj     int+  2        "parallel jobs"        # name type default help
#     option tasks  words "asr kws" "tasks to run"
#     parse_options "$@"                                  # --nj 4, --nj=4; exit 2 with one line on wrong usage
#
# and is a shell variable of that name from then on ($nj, $tasks; dashes and underscores are the same on the command line).
# A default may be changed by assignment before parse_options. --help is made from the declarations.
# Types: int (0, 1, ...)   int+ (1, 2, ...)   number (0.1, -3, 1e-4)   bool (true, false)   stage (number or name)
#        word (no blanks)   words (list, by blanks or commas)   path   args (arguments for a program, split at blanks)
#        one:A|B|C (one of these)
# word and path may be empty only where their default is. A value is never evaluated. Nothing undeclared is an option.
# shellcheck shell=bash disable=SC2034 # option_given is for the scripts that use this

option_names=()
declare -A option_type=() option_help=() option_may_be_empty=() option_given=()
stage_names=()
declare -A stage_help=() stage_alias=()

option() {
    local _name=$1
    if [[ ! $_name =~ ^[a-z][a-z0-9_]*$ ]]; then usage_error "option: '$_name' is no name for an option"; fi
    option_names+=("$_name")
    option_type[$_name]=$2
    option_help[$_name]=$4
    if [[ -z $3 ]]; then option_may_be_empty[$_name]=1; fi
    printf -v "$_name" %s "$3"
}

stage() { # name[|other name] help
    stage_names+=("${1%%|*}")
    stage_help[${1%%|*}]=$2
    if [[ $1 == *'|'* ]]; then stage_alias[${1#*|}]=${1%%|*}; fi
}

usage_error() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

is_option() { [[ $1 =~ ^[a-z][a-z0-9_]*$ && -n ${option_type[$1]+x} ]]; }

# Number of a stage given by number or name; status 1 if there is none.
stage_number() {
    local i given=$1
    if [[ $given =~ ^[a-z]+$ ]]; then given=${stage_alias[$given]:-$given}; fi
    for i in "${!stage_names[@]}"; do
        if [[ $given == "${stage_names[i]}" || $given =~ ^0*$((i + 1))$ ]]; then
            printf '%d\n' $((i + 1))
            return
        fi
    done
    return 1
}

# What a value of this type looks like, for messages and help.
describe_type() {
    case $1 in
        int) printf 'a whole number' ;;
        int+) printf 'a whole number from 1' ;;
        number) printf 'a number' ;;
        bool) printf 'true or false' ;;
        stage) printf 'a stage: 1-%d or %s' ${#stage_names[@]} "${stage_names[*]}" ;;
        word) printf 'one word' ;;
        words) printf 'a list of words' ;;
        path) printf 'a path' ;;
        args) printf 'a string of arguments' ;;
        one:*) printf 'one of %s' "${1#one:}" | sed 's/|/, /g' ;;
    esac
}

has_type() { # type value name
    case $1 in
        int) [[ $2 =~ ^[0-9]{1,15}$ ]] ;;
        int+) [[ $2 =~ ^0*[1-9][0-9]{0,14}$ ]] ;;
        number) [[ $2 =~ ^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$ ]] ;;
        bool) [[ $2 == true || $2 == false ]] ;;
        stage) stage_number "$2" >/dev/null ;;
        word) [[ $2 != *[[:space:]]* ]] && [[ -n $2 || -n ${option_may_be_empty[$3]-} ]] ;;
        path) [[ -n $2 || -n ${option_may_be_empty[$3]-} ]] ;;
        words | args) true ;;
        one:*) [[ -n $2 && $2 != *'|'* && "|${1#one:}|" == *"|$2|"* ]] ;;
        *) usage_error "option --$3: there is no type '$1'" ;;
    esac
}

set_option() { # name value origin: checks the value and assigns it, numbers and lists in their plain form
    local _name=$1 _value=$2
    if ! has_type "${option_type[$_name]}" "$_value" "$_name"; then
        usage_error "$3 --${_name//_/-}: expected $(describe_type "${option_type[$_name]}"), found '$_value'"
    fi
    case ${option_type[$_name]} in
        int | int+) _value=$((10#$_value)) ;;
        stage) _value=$(stage_number "$_value") ;;
        words) _value=$(tr -s ', \t\n' ' ' <<<"$_value" | sed 's/^ //; s/ $//') ;;
    esac
    printf -v "$_name" %s "$_value"
}

# Edits (insertions, deletions, replacements) that turn $1 into $2.
edit_distance() {
    local a=$1 b=$2 i j cost best diagonal above
    local -a row
    for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
    for ((i = 1; i <= ${#a}; i++)); do
        diagonal=${row[0]}
        row[0]=$i
        for ((j = 1; j <= ${#b}; j++)); do
            above=${row[j]}
            if [[ ${a:i-1:1} == "${b:j-1:1}" ]]; then cost=0; else cost=1; fi
            best=$((diagonal + cost))
            if ((above + 1 < best)); then best=$((above + 1)); fi
            if ((row[j - 1] + 1 < best)); then best=$((row[j - 1] + 1)); fi
            row[j]=$best
            diagonal=$above
        done
    done
    printf '%d\n' "${row[${#b}]}"
}

nearest_option() { # empty if none resembles $1
    local given=$1 candidate distance nearest="" least=$((${#1} / 3 + 2))
    if ((${#given} > 40)); then return; fi
    for candidate in "${option_names[@]}"; do
        distance=$(edit_distance "$given" "$candidate")
        if ((distance < least)); then
            least=$distance
            nearest=$candidate
        fi
    done
    printf '%s\n' "${nearest//_/-}"
}

unknown_option() { # the option as it was typed
    local near
    near=$(nearest_option "$(plain_name "$1")")
    if [[ -n $near ]]; then usage_error "unknown option $1: did you mean --$near? (all: --help)"; fi
    usage_error "unknown option $1 (all: --help)"
}

plain_name() { # --stop-stage -> stop_stage
    local given=${1#--}
    printf '%s\n' "${given//-/_}"
}

# Is $2 another option, so that the value of option $1 was forgotten? Arguments for a program may begin with dashes.
is_forgotten_value() {
    if [[ ${option_type[$1]} == args ]]; then
        [[ $2 =~ ^--[a-z][a-z_-]*$ ]] && is_option "$(plain_name "$2")"
    else
        [[ $2 == --* ]]
    fi
}

parse_options() {
    local _typed _name _value
    while (($#)); do
        case $1 in
            -h | --help)
                print_help
                exit 0
                ;;
            --?*) ;;
            *) usage_error "stray argument '$1': options are written --name value (all: --help)" ;;
        esac
        _typed=${1%%=*}
        _name=$(plain_name "$_typed")
        is_option "$_name" || unknown_option "$_typed"
        if [[ $1 == *=* ]]; then
            _value=${1#*=}
        else
            if (($# < 2)); then usage_error "$_typed needs a value: $(describe_type "${option_type[$_name]}")"; fi
            _value=$2
            if is_forgotten_value "$_name" "$_value"; then
                usage_error "$_typed needs a value ($(describe_type "${option_type[$_name]}")), found the option $_value"
            fi
            shift
        fi
        shift
        set_option "$_name" "$_value" option
        option_given[$_name]=1
    done
}

# The defaults of a recipe are typed, too.
check_defaults() {
    local _name
    for _name in "${option_names[@]}"; do set_option "$_name" "${!_name}" "default of"; done
}

print_help() {
    local name i
    printf 'Usage: %s [--option value | --option=value] ...\n' "${0##*/}"
    if ((${#stage_names[@]})); then
        printf '\nStages, by number or name:\n'
        for i in "${!stage_names[@]}"; do
            printf '  %d %-13s %s\n' $((i + 1)) "${stage_names[i]}" "${stage_help[${stage_names[i]}]}"
        done
    fi
    printf '\nOptions, with their values in [brackets]:\n'
    for name in "${option_names[@]}"; do
        printf '  --%-15s %s: %s [%s]\n' "${name//_/-}" "$(type_label "${option_type[$name]}")" "${option_help[$name]}" "${!name}"
    done
}

type_label() {
    case $1 in
        one:*) printf '%s' "${1#one:}" ;;
        bool) printf 'true|false' ;;
        *) printf '%s' "${1%+}" ;;
    esac
}
