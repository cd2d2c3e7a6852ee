"""Any upstream of s3prl by name, through s3prl.nn.

    s3prl:fbank                               without weights: only a head is trained (SUPERB's baseline)
    s3prl:wavlm_base_plus                     s3prl fetches its checkpoint
    s3prl:hubert_custom@/models/hubert.pt     a checkpoint file or folder that the entry reads

Weights are read without running code (torch's weights_only). What s3prl computes for an utterance may depend on the
padding around it, so only utterances of one length go through a frozen or decoding upstream together.
"""
import contextlib
import hashlib
import json
import os
from pathlib import Path

import torch
from torch import nn

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

PREFIX = "s3prl:"
RATE = 16000  # Hz, of all of them
CUSTOM = ("_custom", "_local")  # endings of entries that read a checkpoint of the user
INSTALL = "run `pip install espnet-s3prl` (or s3prl) in this environment"


class HubUpstream(nn.Module):
    """Same interface as network.Waves; `upstream` is a S3PRLUpstream, or a PeftModel around it."""

    def __init__(self, upstream):
        super().__init__()
        self.upstream = upstream
        self.rate = upstream.downsample_rates[-1]  # samples per frame
        self.width, self.layers = upstream.hidden_sizes[-1], upstream.num_layers
        self.uniform = len(set(upstream.hidden_sizes)) == 1 and len(set(upstream.downsample_rates)) == 1

    @property
    def core(self):
        from peft import PeftModel

        return self.upstream.get_base_model() if isinstance(self.upstream, PeftModel) else self.upstream

    def frames(self, samples):
        return (samples - 1) // self.rate + 1

    def forward(self, waves, lengths, weighted: bool):
        """As network.Waves.forward."""
        if self.training:
            return self._run(waves, lengths, weighted)
        frames = self.frames(lengths)
        states = waves.new_zeros(len(waves), self.layers if weighted else 1, int(frames.max()), self.width)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            found, counts = self._run(waves[rows, :length], lengths[rows], weighted)
            states[rows, :, : int(counts[0])] = found.to(states.dtype)
        return states, frames

    def _run(self, waves, lengths, weighted):
        if weighted and not self.uniform:
            raise UsageError("--features weighted: layers of this upstream differ in size or rate; use --features last")
        states, counts = self.upstream(waves, lengths)
        return torch.stack(states, 1) if weighted else states[-1][:, None], counts[-1]

    def adaptable(self) -> list[str]:
        """Names of the linear layers that are called as modules. fairseq's attention hands its weights on to torch
        instead: there a LoRA around them would be neither heard nor trained."""
        called, hooks = [], []
        for name, part in self.core.named_modules():
            if isinstance(part, nn.Linear):
                hooks.append(part.register_forward_hook(lambda *_, name=name: called.append(name)))
        training = self.training
        with torch.no_grad():
            device = next(self.core.parameters(), torch.zeros(())).device
            self.eval()(torch.randn(1, RATE, device=device), torch.tensor([RATE], device=device), False)
        self.train(training)
        for hook in hooks:
            hook.remove()
        return list(dict.fromkeys(called))

    def fingerprint(self, name: str) -> str:
        """Of the entry's name and its weights."""
        digest = hashlib.sha256(name.encode())
        for key, tensor in sorted(self.core.state_dict().items()):
            digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def parse(source: str) -> tuple[str, str | None]:
    """`s3prl:NAME@PATH` -> (NAME, PATH)"""
    name, at, path = source.removeprefix(PREFIX).partition("@")
    return name, path if at else None


def load_hub(source: str) -> HubUpstream:
    """Raises UsageError for a name that s3prl does not have, SpeechMergeError where its checkpoint cannot be had."""
    name, path = parse(source)
    hub, upstream_class = _library()
    if name not in hub.options():
        raise UsageError(f"--model {source}: s3prl has no upstream {name!r}; {_near(name, hub.options())}")
    if path is None and name.endswith(CUSTOM):
        raise UsageError(f"--model {source}: it reads a checkpoint of yours; expected {PREFIX}{name}@/path/to/it")
    if path is not None and not name.endswith(CUSTOM):
        entries = [name + ending for ending in CUSTOM if name + ending in hub.options()]
        others = [entry for entry in hub.options() if entry.endswith(CUSTOM)]
        hint = f"use {PREFIX}{entries[0]}@{path}" if entries else _near(name, others)
        raise UsageError(f"--model {source}: the upstream {name} fetches its own checkpoint; {hint}")
    if path is not None and not Path(path).expanduser().exists():
        raise SpeechMergeError(f"--model {source}: {path}: no such file or folder")
    with _weights_only():
        upstream = _construct(upstream_class, source, name, path)
    drop_no_layers(upstream)
    return HubUpstream(upstream)


def drop_no_layers(upstream):
    """Fine-tuning hears every layer and masks nothing, in fairseq's modules and in those of transformers."""
    for part in upstream.modules():
        for holder in (part, getattr(part, "config", None)):
            for name, value in (("layerdrop", 0.0), ("apply_spec_augment", False)):
                if isinstance(getattr(holder, name, None), (bool, float, int)):
                    setattr(holder, name, value)


def _construct(upstream_class, source, name, path):
    try:
        return upstream_class(name, str(Path(path).expanduser()) if path else None)
    except Exception as error:  # s3prl's upstreams have no common error for a download or a file that fails
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if path is not None:
            raise SpeechMergeError(f"--model {source}: s3prl cannot read this checkpoint ({reason})") from error
        raise SpeechMergeError(f"--model {source}: s3prl could not make this upstream ({reason}); without network, give "
                               f"a checkpoint: {PREFIX}NAME_custom@/path/to/it") from error


def _library():
    try:
        import s3prl.hub as hub
        from s3prl.nn import S3PRLUpstream
    except (ImportError, AttributeError, OSError) as error:  # the old s3prl fails on torchaudio 2.9 with AttributeError
        raise SpeechMergeError(f"models of s3prl need its package, which does not load here ({error}); {INSTALL}") from error
    return hub, S3PRLUpstream


def _near(name, known) -> str:
    """Of the 200 names, the closest, or the first of each kind."""
    words = nearest(name, known)
    return words.split(" (known")[0] if words.startswith("did") else "see s3prl.hub.options()"


@contextlib.contextmanager
def _weights_only():
    """Pickled classes in a checkpoint are refused, also where s3prl would allow them."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
