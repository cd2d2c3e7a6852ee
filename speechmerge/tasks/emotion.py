"""Emotion recognition from the voice."""
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import LabelTask


@TASKS.register("emotion")
class Emotion(LabelTask):
    name = "emotion"
    table = "utt2emotion"
    prompt = "What is the emotion of the speaker?"
