"""Emotion recognition from the voice."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("emotion")
class Emotion(LabelTask):
    """Emotion recognition from the voice; accuracy decides."""

    name = "emotion"
    table = "utt2emotion"
    prompt = "What is the emotion of the speaker?"
    instruction = "What is the emotion of the speaker? Answer with one of: {labels}."
