"""Language identification: the answer is the language code, so the decoder prefix must not tell it."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("langid")
class LanguageId(LabelTask):
    """Language identification; accuracy decides."""

    name = "langid"
    table = "utt2lang"
    uses_language = False
    prompt = "Which language is spoken?"
    instruction = "Which language is spoken? Answer with one of these codes: {labels}."

    def label_of(self, utterance):
        return utterance.language
