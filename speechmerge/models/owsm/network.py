"""espnet2's speech-to-text model with the forward pass that our trainer calls. Importing this imports espnet2."""
import argparse
import contextlib
import importlib.util
import inspect
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import ModelOutput

from speechmerge.errors import SpeechMergeError

LORALIB = ("lora_A", "lora_B")
INSTALL = "run tools/install_espnet.sh"


def import_task():
    """espnet2's task class. Its import would fetch data for English phonemes (nltk), which nothing here reads."""
    if importlib.util.find_spec("espnet2") is None:
        raise SpeechMergeError(f"OWSM needs ESPnet, which is not installed; {INSTALL}")
    try:
        import nltk

        fetch, nltk.download = nltk.download, lambda *words, **options: False
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints that flash attention is not there
                from espnet2.tasks.s2t import S2TTask
        finally:
            nltk.download = fetch
    except ImportError as error:
        raise SpeechMergeError(f"ESPnet is installed, but a part of it is missing ({error}); {INSTALL}") from error
    return S2TTask


S2TTask = import_task()
from espnet2.s2t.espnet_model import ESPnetS2TModel  # noqa: E402


@dataclass
class S2TOutput(ModelOutput):
    """logits (batch, tokens, vocabulary); ctc: sum of the CTC losses over the batch, None where there is no text."""

    logits: torch.Tensor = None
    ctc: torch.Tensor | None = None


class Network(ESPnetS2TModel):
    """Same parameters as ESPnetS2TModel: an existing model becomes one by `model.__class__ = Network`."""

    def encode_features(self, features: torch.Tensor, **options):
        """Log-mel (batch, frames, mels), all of the same length -> states (batch, positions, d).

        As ESPnetS2TModel.encode without frontend and SpecAugment. options: of the encoder's forward.
        """
        lengths = torch.full((len(features),), features.shape[1], dtype=torch.long, device=features.device)
        with torch.autocast(features.device.type, enabled=False):
            if self.normalize is not None:
                features, lengths = self.normalize(features.float().clone(), lengths)  # in place
        features = features.to(next(self.encoder.parameters()).dtype)
        if self.preencoder is not None:
            features, lengths = self.preencoder(features, lengths)
        states, lengths, _ = self.encoder(features, lengths, **options)
        if self.postencoder is not None and not options:
            states, lengths = self.postencoder(states, lengths)
        return states

    def forward(self, features, decoder_input_ids, ctc_labels=None, ctc_lengths=None, use_cache=False):
        """features (batch, mels, frames), decoder_input_ids (batch, tokens), ctc_labels (batch, text) -> S2TOutput."""
        states = self.encode_features(features.transpose(1, 2))
        logits = self.decode(states, decoder_input_ids)
        if ctc_labels is None or self.ctc_weight == 0.0:
            return S2TOutput(logits=logits)
        positions = torch.full((len(states),), states.shape[1], dtype=torch.long, device=states.device)
        return S2TOutput(logits=logits, ctc=self.ctc(states, positions, ctc_labels, ctc_lengths) * len(states))

    def layer_states(self, features, layer: int):
        """(batch, positions, d): the input of the encoder's first block (layer 0) or the output of the layer-th."""
        part, seen = self.encoder.encoders[max(layer - 1, 0)], []
        if layer == 0:
            handle = part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        else:
            handle = part.register_forward_hook(lambda _, inputs, outputs: seen.append(outputs[0]))
        try:
            self.encode_features(features.transpose(1, 2), **({"max_layer": max(layer, 1)} if self.stops_early else {}))
        finally:
            handle.remove()
        return seen[0][0] if isinstance(seen[0], tuple) else seen[0]  # a pair where positions are relative

    @property
    def stops_early(self) -> bool:
        return "max_layer" in inspect.signature(self.encoder.forward).parameters

    def decode(self, states, tokens):
        """Logits (batch, tokens, vocabulary); the decoder is causal, so that what stands behind a token is not seen."""
        batch, width = tokens.shape
        every = torch.full((batch,), states.shape[1], dtype=torch.long, device=states.device)
        return self.decoder(states, every, tokens, torch.full_like(every, width))[0]

    def attention_loss(self, logits, labels):
        """Sum of espnet2's label-smoothed loss over the target tokens; labels: -100 where there is none."""
        found = self.criterion_att(logits.float(), labels.masked_fill(labels < 0, self.ignore_id))
        return found * (labels.ge(0).sum() if self.criterion_att.normalize_length else len(labels))

    def get_output_embeddings(self):
        return self.decoder.output_layer

    def gradient_checkpointing_enable(self, options=None):
        """espnet2 counts from 1; 0 is the encoder's subsampling. Always non-reentrant."""
        for part in (self.encoder, self.decoder):
            if not hasattr(part, "gradient_checkpoint_layers"):
                raise SpeechMergeError(f"--gradient-checkpointing: espnet2's {type(part).__name__} has none")
        self.encoder.gradient_checkpoint_layers = list(range(len(self.encoder.encoders) + 1))
        self.decoder.gradient_checkpoint_layers = list(range(1, len(self.decoder.decoders) + 1))


def build(config: dict, where) -> Network:
    """The network of a config.yaml, by espnet2's task class, with random weights."""
    if config.get("use_adapter"):
        raise SpeechMergeError(f"{where}: use_adapter: this model was trained with ESPnet's own adapters, whose "
                               "files may hold no base, or weights into which they are merged already; train the "
                               "adapter here instead")
    if config.get("frontend", "default") != "default" or config.get("input_size"):
        raise SpeechMergeError(f"{where}: frontend {config.get('frontend')!r}: only ESPnet's default one (log-mel) "
                               "is supported")
    with torch.random.fork_rng():
        network = S2TTask.build_model(argparse.Namespace(**{**config, "init": None}))
    if network.decoder is None or network.interctc_weight:
        raise SpeechMergeError(f"{where}: expected an encoder and a decoder without intermediate CTC (model_conf)")
    network.__class__ = Network
    return network


def load_weights(network: Network, path: Path):
    """All weights of the network from the file, and no others. Nothing that stands in the file is run."""
    tensors = read_weights(path)
    adapted = [name for name in tensors if any(part in name for part in LORALIB)]
    if adapted:
        raise SpeechMergeError(f"{path}: key {adapted[0]} and {len(adapted) - 1} more are of ESPnet's own LoRA "
                               "(loralib): its files hold no base, or weights into which the adapter is merged "
                               "already, so that it would "
                               "count twice; export the merged weights without lora_A and lora_B, or train the "
                               "adapter here")
    expected = network.state_dict()
    for what, names in (("missing", expected.keys() - tensors.keys()), ("unknown", tensors.keys() - expected.keys())):
        if names:
            raise SpeechMergeError(f"{path}: {len(names)} of {len(expected)} weights are {what}, such as "
                                   f"{min(names)}; config.yaml "
                                   "and weights do not belong together, or the file holds a part of the model alone")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise SpeechMergeError(f"{path}: weight {name} has shape {tuple(tensor.shape)}, config.yaml makes "
                                   f"{tuple(expected[name].shape)}")
    network.load_state_dict(tensors, strict=True)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Names to tensors of a .pth (also one of DeepSpeed, where they lie in `module`) or of a safetensors file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and runtime errors, by kind of damage
        raise SpeechMergeError(f"{path}: not a plain file of weights ({str(error).splitlines()[0][:160]}); copy it "
                               "again, or save its state_dict() with torch.save") from error
    found = found["module"] if isinstance(found, dict) and isinstance(found.get("module"), dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise SpeechMergeError(f"{path}: expected names and tensors (a state_dict), as ESPnet's averaged checkpoints "
                               "hold")
    return dict(found)
