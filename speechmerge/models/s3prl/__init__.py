"""Self-supervised upstreams (HuBERT, wav2vec 2.0, WavLM, and all of s3prl) with a head per task."""
from speechmerge.models.s3prl.family import Upstream

__all__ = ["Upstream"]
