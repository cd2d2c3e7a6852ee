"""SpeechMerge: one adapter per speech task, combined in weight space or routed per utterance."""
__version__ = "0.1.0"

from speechmerge import merge  # noqa: E402  a package that can be called: speechmerge.merge(adapters, method="ties")

__all__ = ["merge"]
