"""The network of an upstream: padded waves -> hidden states of its layers, the same whatever the padding.

HuBERT base and wav2vec 2.0 base normalise the first convolution over the whole time axis (group norm), so that zeros
appended to an utterance would change all of it. Here its mean and variance are taken over the utterance alone; with
equal lengths the module is torch's own. Later layers get transformers' attention mask.
"""
import torch
from torch import nn
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

SHORTEST = 400  # samples: one frame of the usual front end (25 ms)


class LengthAwareNorm(nn.GroupNorm):
    """GroupNorm of one channel per group over the first `lengths` frames of each row (None: over all)."""

    lengths: torch.Tensor | None = None

    def forward(self, input):
        """(batch, channels, frames) -> the same shape; frames beyond a row's length are zero."""
        if self.lengths is None:
            return super().forward(input)
        heard = (torch.arange(input.shape[-1], device=input.device) < self.lengths[:, None])[:, None]
        count = self.lengths[:, None, None].to(torch.float32)
        values = input.float().masked_fill(~heard, 0.0)
        mean = values.sum(-1, keepdim=True) / count
        variance = ((values - mean).square() * heard).sum(-1, keepdim=True) / count
        normed = (values - mean) * (variance + self.eps).rsqrt()
        scaled = normed * self.weight[:, None].float() + self.bias[:, None].float()
        return (scaled * heard).to(input.dtype)


class ModularAttention(WavLMAttention):
    """WavLM's attention through its linear modules. transformers hands their weights to torch's own function, past
    the modules, where a LoRA around them is neither heard nor trained."""

    def torch_multi_head_self_attention(self, hidden_states, attention_mask, gated_position_bias):
        batch, length, width = hidden_states.shape
        shape = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (layer(hidden_states).view(shape).transpose(1, 2)
                             for layer in (self.q_proj, self.k_proj, self.v_proj))
        bias = gated_position_bias.view(batch, self.num_heads, length, length).to(query.dtype)
        if attention_mask is not None:
            hidden = attention_mask.ne(1)[:, None, None]
            bias = bias.masked_fill(hidden, torch.finfo(bias.dtype).min)
        dropped = self.dropout if self.training else 0.0
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropped)
        return self.out_proj(heard.transpose(1, 2).reshape(batch, length, width)), None


def make_length_aware(core):
    """Change the classes of an upstream's modules in place; parameters and their names stay."""
    first = core.feature_extractor.conv_layers[0]
    if core.config.feat_extract_norm == "group":
        first.layer_norm.__class__ = LengthAwareNorm
    for module in core.modules():
        if type(module) is WavLMAttention:
            module.__class__ = ModularAttention


class Waves(nn.Module):
    """`upstream`: a HubertModel, Wav2Vec2Model or WavLMModel of transformers, or a PeftModel around one."""

    def __init__(self, upstream):
        super().__init__()
        self.upstream = upstream

    @property
    def core(self):
        from peft import PeftModel

        return self.upstream.get_base_model() if isinstance(self.upstream, PeftModel) else self.upstream

    @property
    def width(self) -> int:
        return self.core.config.hidden_size

    @property
    def layers(self) -> int:
        """Hidden states that `forward` can give: the input of the first block and the output of each."""
        return self.core.config.num_hidden_layers + 1

    def frames(self, samples):
        """Of a wave of so many samples."""
        return self.core._get_feat_extract_output_lengths(samples)

    def forward(self, waves, lengths, weighted: bool):
        """waves (batch, samples), lengths (batch) in samples -> (states (batch, layers or 1, frames, width), frames of
        each row). `weighted`: the states of all layers, else the last."""
        equal, mask = bool((lengths == waves.shape[1]).all()), None
        if not equal:
            mask = (torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]).long()
        self._tell(None if equal else lengths)
        front = self.core.feature_extractor  # else transformers makes a graph of it, though nothing in it is trained
        front._requires_grad = any(parameter.requires_grad for parameter in front.parameters())
        found = self.upstream(waves, attention_mask=mask, output_hidden_states=weighted)
        states = torch.stack(found.hidden_states, 1) if weighted else found.last_hidden_state[:, None]
        return states, self.frames(lengths)

    def _tell(self, lengths):
        first = self.core.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        if isinstance(norm, LengthAwareNorm):
            kernel, stride = self.core.config.conv_kernel[0], self.core.config.conv_stride[0]
            norm.lengths = None if lengths is None else (lengths - kernel) // stride + 1


class Network(nn.Module):
    """What training calls: an upstream and the head of a task. `states` may come from a cache instead of `waves`."""

    def __init__(self, upstream: nn.Module):
        super().__init__()
        self.body, self.head = upstream, None

    @property
    def takes_gradients(self) -> bool:
        return any(parameter.requires_grad for parameter in self.body.parameters())

    def train(self, mode=True):
        """A frozen upstream has no dropout: its states are those of decoding."""
        super().train(mode)
        if mode and not self.takes_gradients:
            self.body.eval()
        return self

    def states(self, waves, lengths):
        return self.body(waves, lengths, self.head is not None and self.head.weighted)

    def forward(self, lengths, waves=None, states=None):
        """-> what the head makes of the states: an Output."""
        if states is None:
            states, lengths = self.states(waves, lengths)
        return self.head(states, lengths)
