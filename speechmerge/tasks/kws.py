"""Keyword spotting: which word of a closed list was spoken."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("kws")
class KeywordSpotting(LabelTask):
    """Keyword spotting: which word of a closed list was spoken; accuracy decides."""

    name = "kws"
    table = "utt2keyword"
    prompt = "Which keyword is spoken?"
    instruction = "Which keyword is spoken? Answer with one of: {labels}."

    def label_of(self, utterance):
        return utterance.labels.get("keyword")
