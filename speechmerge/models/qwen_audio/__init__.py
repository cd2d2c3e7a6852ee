"""Audio LLMs: an audio encoder whose states stand in a conversation with a language model (Qwen2-Audio, Qwen2.5-Omni)."""
from speechmerge.models.qwen_audio.families import Qwen2Audio, Qwen2_5Omni

__all__ = ["Qwen2Audio", "Qwen2_5Omni"]
