"""Intent classification: what the speaker wants done."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("intent")
class Intent(LabelTask):
    """Intent classification: what the speaker wants done; accuracy decides."""

    name = "intent"
    table = "utt2intent"
    prompt = "What is the intent of the speaker?"
    instruction = "What does the speaker want done? Answer with one of: {labels}."
