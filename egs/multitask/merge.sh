#!/usr/bin/env bash
# Six tasks of six corpora in one model: the adapters of the other recipes on one base, merged with learned and with
# searched coefficients.
#
#   ./merge.sh --mini true                    spoken miniatures and the small base, offline
#   ./merge.sh                                adapters of ../<recipe>/exp on whisper-small; missing ones are trained
#   ./merge.sh --stage merge --merges supermerge_emotion_intent_kws_langid_speaker_ver_asr
#   ./merge.sh --help                         all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
until [[ -z $root || -e $root/utils/merge.sh ]]; do root=${root%/*}; done

defaults() {
    recipes="iemocap:emotion slurp:intent speech_commands:kws fleurs:langid voxceleb:speaker_ver librispeech:asr"
    model=openai/whisper-small
    splits="dev test" # the report names the merge that is best on dev
}

. "$root/utils/merge.sh"
