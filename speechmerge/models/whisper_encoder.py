"""Whisper's encoder for inputs of any length up to the full context, and its log-mel features.

transformers insists on exactly `2 * max_source_positions` frames (30 s for the published sizes). Short speech then pays
for 30 s of silence. Here the position embeddings are cut to the input, which is what openai/whisper calls `audio_ctx`;
at the full length the result is bit for bit that of transformers.
"""
import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechmerge.errors import SpeechMergeError


class AnyLengthEncoder(WhisperEncoder):
    """Same parameters as WhisperEncoder: an existing encoder becomes one by `encoder.__class__ = AnyLengthEncoder`."""

    def forward(self, input_features, attention_mask=None, output_hidden_states=False, depth=None, **kwargs):
        """(batch, mels, frames), frames <= 2 * positions -> last_hidden_state (batch, ceil(frames / 2), d).

        output_hidden_states: also the input of the first layer and the output of every layer, the last one normalised.
        depth: stop after so many layers; what they give is then not normalised.
        """
        hidden = nn.functional.gelu(self.conv1(input_features))
        hidden = nn.functional.gelu(self.conv2(hidden)).permute(0, 2, 1)
        length, longest = hidden.shape[1], self.embed_positions.num_embeddings
        if length > longest:
            raise SpeechMergeError(f"audio of {length} encoder positions: this Whisper holds at most {longest}")
        positions = torch.arange(length, device=hidden.device)
        hidden = hidden + self.embed_positions(positions)
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        states = [hidden] if output_hidden_states else None
        for layer in self.layers[:depth]:
            if self.training and self.layerdrop > 0.0 and torch.rand([]) < self.layerdrop:
                continue
            hidden = layer(hidden, None, **kwargs)
            if states is not None:
                states.append(hidden)
        if depth is not None:
            return BaseModelOutput(last_hidden_state=hidden, hidden_states=states and tuple(states))
        hidden = self.layer_norm(hidden)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=states and (*states[:-1], hidden))


class LogMel:
    """Whisper's log-mel features, computed only as far as there is sound.

    The rest of the extractor's full-length output is silence: every later frame has the same value, which `pad` adds
    where it is needed. `pad(features, full)` equals `WhisperFeatureExtractor` (1e-5).
    """

    FLOOR = 1e-10  # of the mel power, as in openai/whisper's log_mel_spectrogram
    RANGE = 8.0  # decades below the loudest bin that are kept

    def __init__(self, extractor):
        self.rate, self.hop, self.window_length = extractor.sampling_rate, extractor.hop_length, extractor.n_fft
        self.full = extractor.nb_max_frames
        self.samples = extractor.n_samples
        self.window = torch.hann_window(self.window_length)
        filters = torch.from_numpy(np.asarray(extractor.mel_filters))
        self.filters = filters.float().T.contiguous()  # (mels, n_fft / 2 + 1)

    def __call__(self, wave: np.ndarray) -> torch.Tensor:
        """wave: float32 mono at the extractor's rate -> (mels, frames), frames even and at most the full context."""
        wave = torch.from_numpy(np.ascontiguousarray(wave[: self.samples], dtype=np.float32))
        reach = -(-(len(wave) + self.window_length // 2) // self.hop)  # the first frame whose window holds no sound
        frames = min(reach + reach % 2, self.full)
        short = min(frames * self.hop + self.window_length, self.samples)  # further on there is only silence
        wave = nn.functional.pad(wave, (0, short - len(wave)))
        spectrum = torch.stft(wave, self.window_length, self.hop, window=self.window, return_complex=True)
        spectrum = spectrum[:, :frames]
        power = spectrum.real.square() + spectrum.imag.square()
        log = (self.filters @ power).clamp(min=self.FLOOR).log10()
        return (torch.maximum(log, log.max() - self.RANGE) + 4.0) / 4.0

    def pad(self, features: torch.Tensor, frames: int) -> torch.Tensor:
        """(mels, n) -> (mels, frames): cut, or continued with the value that silence has in this utterance."""
        missing = frames - features.shape[-1]
        if missing <= 0:
            return features[:, :frames]
        loudest = float(features.max()) * 4.0 - 4.0
        silence = (max(-10.0, loudest - self.RANGE) + 4.0) / 4.0
        return nn.functional.pad(features, (0, missing), value=silence)
