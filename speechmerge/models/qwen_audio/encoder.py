"""Qwen2-Audio's encoder for inputs of any even length up to the full context.

transformers insists on 30 s of frames, of which it masks what is padding. Whatever is masked changes nothing, so that the
encoder may as well be given the frames that hold sound and the two after them that the convolutions reach: the states
are the same (1e-5), for a 3 s utterance at a tenth of the work.
"""
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from speechmerge.errors import SpeechMergeError


class AnyLengthEncoder(Qwen2AudioEncoder):
    """Same parameters as Qwen2AudioEncoder: an existing encoder becomes one by `encoder.__class__ = AnyLengthEncoder`."""

    def forward(self, input_features, attention_mask=None, **kwargs):
        """(audios, mels, frames), mask over frames / 2 positions -> last_hidden_state (audios, frames / 4, d)."""
        hidden = nn.functional.gelu(self.conv1(input_features.to(self.conv1.weight)))
        hidden = nn.functional.gelu(self.conv2(hidden)).permute(0, 2, 1)
        if hidden.shape[1] > self.max_source_positions:
            raise SpeechMergeError(f"audio of {hidden.shape[1]} encoder positions: this model holds {self.max_source_positions}")
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, **kwargs)
        hidden = self.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))
