"""Intent classification: what the speaker wants done."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("intent")
class Intent(LabelTask):
    name = "intent"
    table = "utt2intent"
    prompt = "What is the intent of the speaker?"
