"""Speaker identification over a closed set of speakers."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("speaker_id")
class SpeakerId(LabelTask):
    """Speaker identification over a closed set of speakers; accuracy decides."""

    name = "speaker_id"
    table = "utt2spk"
    uses_language = False
    prompt = "Who is speaking?"
    instruction = "Who is speaking? Answer with the name of the speaker."

    def label_of(self, utterance):
        return utterance.speaker
