"""Speech models, one module per family. Nothing outside this package asks which family a model is of."""
from speechmerge.models.base import FAMILIES, SpeechModel, load_model

__all__ = ["FAMILIES", "SpeechModel", "load_model"]
