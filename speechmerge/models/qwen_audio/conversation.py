"""What stands before the answer: the processor's chat template around audio and instruction, as token ids.

    <|im_start|>system ... <|im_end|>
    <|im_start|>user
    Audio 1: <|audio_bos|><|AUDIO|>...<|AUDIO|><|audio_eos|>
    Transcribe the speech.<|im_end|>
    <|im_start|>assistant

One `<|AUDIO|>` per state of the encoder, which is what the processor writes when it is given the audio itself.
"""
import functools

from speechmerge.errors import SpeechMergeError

KEPT = 4096  # rendered conversations: tasks with one instruction need a handful, questions one each


def audio_tokens(frames: int) -> int:
    """States of the encoder, and so placeholders, for this many log-mel frames: a convolution and a pooling of stride 2."""
    return ((frames - 1) // 2 - 1) // 2 + 1


class Conversation:
    """processor: of transformers, with tokenizer, chat template and audio token; system: what the model is told it is
    (None: the template's own default)."""

    def __init__(self, processor, system: str | None = None):
        self.processor, self.tokenizer, self.system = processor, processor.tokenizer, system
        self.audio_id = self.tokenizer.convert_tokens_to_ids(processor.audio_token)
        self.rendered = functools.lru_cache(maxsize=KEPT)(self._rendered)

    def messages(self, text: str, audios: int) -> list[dict]:
        content = [{"type": "audio", "audio": ""}] * audios + [{"type": "text", "text": text}]
        told = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        return [*told, {"role": "user", "content": content}]

    def _rendered(self, text: str, audios: int) -> tuple[int, ...]:
        """Token ids with one placeholder per audio."""
        written = self.processor.apply_chat_template(self.messages(text, audios), add_generation_prompt=True, tokenize=False)
        ids = tuple(self.tokenizer(written, add_special_tokens=False).input_ids)
        if ids.count(self.audio_id) != audios:
            raise SpeechMergeError(f"the conversation has {ids.count(self.audio_id)} x {self.processor.audio_token} for {audios} "
                                   f"recordings; the chat template or the prompt {text[:60]!r} writes others")
        return ids

    def prefix(self, text: str, frames: tuple[int, ...]) -> list[int]:
        """Token ids up to the answer. frames: log-mel frames of each recording."""
        counts, found = iter([audio_tokens(count) for count in frames]), []
        for id in self.rendered(text, len(frames)):
            found += [id] * (next(counts) if id == self.audio_id else 1)
        return found
