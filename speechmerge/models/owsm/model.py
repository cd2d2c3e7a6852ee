"""The family: espnet2's speech-to-text models, above all OWSM.

The decoder reads `<sos> <LANGUAGE> <TASK> <notimestamps>` (`<ita> <asr>`, `<hin> <st_eng>`), and before that, where
there is a prompt, `<sop> prompt`: ESPnet's previous text. OWSM has symbols for transcription and translation alone;
other tasks are told by the prompt and answered as text. The spoken language is the symbol that it predicts after
`<sos>`.

Decoding is under no_grad, not inference_mode: espnet2 keeps position tables between calls, which training goes on with.
"""
import contextlib
import copy
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_json, write_text
from speechmerge.models.base import FAMILIES, Context, Item, SpeechModel
from speechmerge.models.loading import Loading, named_layers, pick_device
from speechmerge.models.owsm import languages, layout
from speechmerge.models.owsm.symbols import Symbols

IGNORED = -100  # label of positions without loss
SILENCE = 1e-10  # of the mel power, where ESPnet's log-mel is cut off
LOGITS_BYTES = 1 << 28  # of a chunk of labels while they are scored
ATTENTION = ("linear_q", "linear_v")
POSITIONS = "linear_pos"  # of relative positions: the same input for all utterances, adapted only by name


@FAMILIES.register("owsm")
class Owsm(SpeechModel):
    """OWSM by hub name or folder; any speech-to-text model of ESPnet with a Transformer decoder."""

    family = "owsm"
    model_types = (layout.TYPE,)
    pair_silence = 0.2
    ctc_weight = 0.0  # while decoding; a decode.yaml in the model's folder may say otherwise

    def __init__(self, module, symbols: Symbols, config: dict, files: layout.Files, source, context):
        super().__init__(module, symbols, None, source, files.place, context)
        self.symbols, self.config, self.files = symbols, config, files
        self.rate, self.full_seconds = sampling(config)
        self.frontend = copy.deepcopy(module.frontend).cpu().float().eval()  # features are made on the CPU
        self.hop, self.window = self.frontend.stft.hop_length, self.frontend.stft.n_fft

    @classmethod
    def recognises(cls, path):
        return layout.recognises(path)

    @classmethod
    def find(cls, name):
        return layout.find(name)

    @classmethod
    def load(cls, path, source, loading: Loading, context: Context):
        files = layout.locate(path)
        config = located(layout.read_yaml(files.config), files.config)
        from speechmerge.models.owsm.network import build, load_weights
        from speechmerge.models.owsm.search import check_decoder

        network = build(config, files.config)
        check_decoder(network.decoder, files.config)
        load_weights(network, files.weights)
        tokens = list(network.token_list)
        symbols = Symbols(tokens, Path(config["bpemodel"]), config["preprocessor_conf"], str(files.config))
        network.to(pick_device(loading.device), getattr(torch, loading.dtype)).eval()
        for part in filter(None, (network.frontend, network.normalize)):
            part.float()  # power spectra and their statistics need the range
        named = source if not Path(source).exists() else str(files.place.absolute())
        model = cls(network, symbols, config, files, named, context)
        model.ctc_weight = decoding_weight(files.config.parent, network)
        return model

    def equipment(self, folder):
        """The options of decoding that lie with the base."""
        path = self.files.config.parent / layout.DECODING
        return [path] if path.is_file() else []

    # Audio

    def features(self, audio, utterance=None):
        """Log-mel (mels, frames) as far as there is sound; `pad` adds the silence behind it."""
        from speechmerge.data.audio import read_audio

        waves = [read_audio(path, self.rate, utterance=utterance) for path in audio]
        gap = np.zeros(round(self.pair_silence * self.rate), dtype=np.float32)
        wave = np.concatenate([part for wave in waves for part in (gap, wave)][1:])
        full = round(self.full_seconds * self.rate)
        wave = torch.from_numpy(np.ascontiguousarray(wave[:full], dtype=np.float32))
        frames = min((len(wave) + self.window // 2) // self.hop + 1, self.frames_of(full))  # whose windows hold sound
        samples = min(frames * self.hop + 2 * self.window, full)  # at the very end the STFT mirrors what it hears
        wave = nn.functional.pad(wave, (0, samples - len(wave)))[None]
        with torch.no_grad():
            found, _ = self.frontend(wave, torch.tensor([samples]))
        return found[0, :frames].T.contiguous()

    def frames_of(self, samples: int) -> int:
        return samples // self.hop + 1

    def pad(self, features, frames: int):
        """To `frames`, with what the model hears as digital silence."""
        missing = frames - features.shape[-1]
        if missing <= 0:
            return features[:, :frames]
        return nn.functional.pad(features, (0, missing), value=float(np.log(SILENCE)))

    def context_frames(self, seconds):
        return self.frames_of(round(self.context.seconds(seconds, self.full_seconds) * self.rate))

    # Text

    def prefix_of(self, example, task) -> list[int]:
        """Token ids before the answer: previous text, start, language, task, no timestamps."""
        core = self.core
        if predicts_language(task):
            return [core.sos]
        previous = self.symbols.text_ids(example.prompt.strip()) if example.prompt else []
        start = [core.sop, *previous, core.sos] if previous else [core.sos]
        spoken = self.symbols.language(example.language if task.uses_language else None)
        return [*start, spoken, self.symbols.task(example.target_language), self.symbols.no_time]

    def prefix_length(self, example, task):
        return len(self.prefix_of(example, task))

    def writes(self, text):
        return self.symbols.ids["<unk>"] not in self.symbols.text_ids(text)

    def answer_ids(self, text: str, prefix: list[int]) -> list[int]:
        """The language symbol where nothing but the start comes before it, else text and end."""
        if prefix[-1] == self.core.sos:
            return [self.symbols.language(text)]
        return [*self.symbols.text_ids(text.strip()), self.core.eos]

    def fits(self, example, task):
        self.answer_ids(example.target, self.prefix_of(example, task))  # raise where a symbol is missing
        if task.hears_all and self.seconds(example) > self.full_seconds:
            return f"the audio is {self.seconds(example):.1f} s long, the encoder holds {self.full_seconds:g} s"
        return None

    # Batches

    def collate(self, items: list[Item], task, training=False, frames=None):
        frames = frames or max(self.context_frames(item.seconds) for item in items)
        batch = {"features": torch.stack([self.pad(item.features, frames) for item in items])}
        prefixes = [self.prefix_of(item.example, task) for item in items]
        if not training:
            heard = [min(item.features.shape[-1], frames) / frames for item in items]
            return {**batch, "decoder_input_ids": torch.tensor(prefixes), "heard": torch.tensor(heard)}
        answers = [self.answer_ids(task.written(item.example.target), prefix) for prefix, item in zip(prefixes, items)]
        rows = [prefix + answer for prefix, answer in zip(prefixes, answers)]
        width = max(map(len, rows)) - 1
        inputs = torch.full((len(rows), width), self.core.eos)
        labels = torch.full((len(rows), width), IGNORED)
        for i, row in enumerate(rows):
            first = row.index(self.core.sos)  # from there on, language and task included, as in ESPnet's own training
            inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
            labels[i, first : len(row) - 1] = torch.tensor(row[first + 1 :])
        return {**batch, "decoder_input_ids": inputs, "labels": labels, **self.ctc_targets(answers, task)}

    def ctc_targets(self, answers, task) -> dict:
        """What is said, without symbols: known of a transcription alone; elsewhere CTC has no loss (ESPnet's <na>)."""
        if task.kind != "transcription" or self.core.ctc is None:
            return {}
        texts = [torch.tensor(answer[:-1], dtype=torch.long) for answer in answers]
        return {"ctc_labels": nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1),
                "ctc_lengths": torch.tensor([len(text) for text in texts])}

    def loss(self, outputs, labels, num_items_in_batch=None):
        """ESPnet's (1 - w) attention + w CTC, label smoothing included: the batch's sum divided by the target tokens.

        ESPnet divides by the utterances (or, with length_normalized_loss, the attention part by tokens): the same but
        for a factor tokens / utterances of the whole batch.
        """
        core, tokens = self.core, labels.ne(IGNORED).sum()
        weight = core.ctc_weight
        total = (1.0 - weight) * core.attention_loss(outputs.logits, labels)
        if outputs.ctc is not None:
            scale = tokens / len(labels) if core.criterion_att.normalize_length else 1.0
            total = total + weight * outputs.ctc * scale
        return total / (tokens if num_items_in_batch is None else num_items_in_batch)

    # Decoding

    @torch.no_grad()
    def encode(self, batch):
        """States (batch, positions, d); kept in the batch, so that generation and label scoring share them."""
        if "states" not in batch:
            self.core.eval()
            batch["states"] = self.core.encode_features(batch["features"].to(self.device).transpose(1, 2))
        return batch["states"]

    @torch.no_grad()
    def embed(self, batch):
        return mean_heard(self.encode(batch).float(), batch["heard"]).cpu()

    @torch.no_grad()
    def encoder_states(self, batch, layer):
        states = self.encode(batch) if layer == -1 else self.core.layer_states(batch["features"].to(self.device), layer)
        return states, (batch["heard"].to(states.device) * states.shape[1]).ceil().long()

    @torch.no_grad()
    def generate(self, batch, task, num_beams=1):
        from speechmerge.models.owsm.search import search, search_with_ctc

        states, prefix = self.encode(batch), batch["decoder_input_ids"].to(self.device)
        if predicts_language(task):
            return self.spoken_languages(states, prefix)
        if self.ctc_weight > 0.0:
            answers = search_with_ctc(self.core, states, prefix, self.symbols, num_beams, self.ctc_weight,
                                      task.max_new_tokens)
        else:
            first, last = self.symbols.times
            never = torch.arange(first, last + 1, device=self.device)
            answers = search(self.core.decoder, states, prefix, never, self.core.eos, num_beams, task.max_new_tokens)
        return [self.symbols.text(answer).strip() for answer in answers]

    def spoken_languages(self, states, prefix) -> list[str]:
        """The likeliest language symbol of each utterance, as the code that our tables use."""
        from speechmerge.models.owsm.search import Steps

        logs = Steps(self.core.decoder, states)(prefix, prefix.shape[1])[:, -1]
        names = list(self.symbols.languages)
        best = logs[:, [self.symbols.languages[name] for name in names]].argmax(-1)
        return [languages.short(names[index]) for index in best.tolist()]

    @torch.no_grad()
    def score_labels(self, batch, labels):
        from speechmerge.models.owsm.search import score

        prefix = batch["decoder_input_ids"].to(self.device)
        targets = [self.answer_ids(label, prefix[0].tolist()) for label in labels]
        return score(self.core.decoder, self.encode(batch), prefix, targets, LOGITS_BYTES)

    # Weights

    @contextlib.contextmanager
    def adapter(self, directory):
        """Also a fully fine-tuned model in ESPnet's form, whose weights are parameters and statistics."""
        from speechmerge.models.adapters import LORA_CONFIG, check_base

        directory = Path(directory)
        if (directory / LORA_CONFIG).is_file() or not layout.recognises(directory):
            with super().adapter(directory):
                yield self
            return
        from speechmerge.models.owsm.network import load_weights

        check_base(self, directory)
        kept = {name: tensor.clone() for name, tensor in self.core.state_dict().items()}
        try:
            load_weights(self.core, layout.locate(directory).weights)
            yield self
        finally:
            self.core.load_state_dict(kept, strict=True)

    def save(self, folder):
        """A PEFT adapter, or the whole model as ESPnet's Speech2Text and `load_model` load it."""
        if self.module is not self.core:
            return super().save(folder)
        import yaml

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        torch.save({name: tensor.cpu() for name, tensor in self.core.state_dict().items()}, target / layout.MODEL)
        for path in [*resources(self.config), *self.equipment(None)]:
            shutil.copyfile(path, target / path.name)
        write_text(target / layout.CONFIG, yaml.safe_dump(self.config, allow_unicode=True, sort_keys=False))
        write_json(target / "config.json", {"model_type": layout.TYPE})

    def restore(self, folder):
        if self.module is not self.core:
            return False
        from speechmerge.models.owsm.network import load_weights

        load_weights(self.core, Path(folder) / layout.MODEL)
        return True

    # Layers

    def linear_names(self):
        """Without both output layers (attention's and CTC's) and without the projections of relative positions."""
        outputs = (self.core.get_output_embeddings(), self.core.ctc and self.core.ctc.ctc_lo)
        return [name for name, part in self.core.named_modules()
                if isinstance(part, nn.Linear) and part not in outputs and not name.endswith(POSITIONS)]

    def target_modules(self, which="all-linear"):
        names = self.linear_names()
        last = sorted({short_name(name) for name in names})
        if which in ("all-linear", ["all-linear"]):
            return last
        if which in ("attention", ["attention"]):
            return list(ATTENTION)
        if which in ("decoder", "encoder", ["decoder"], ["encoder"]):
            part = which if isinstance(which, str) else which[0]
            return [name for name in names if name.startswith(f"{part}.")]
        every = [name for name, part in self.core.named_modules() if isinstance(part, nn.Linear)]
        return named_layers(which, every, "all-linear, attention, encoder, decoder")


def predicts_language(task) -> bool:
    """Is the answer the language itself? OWSM has a symbol for it."""
    return task.name == "langid"


def mean_heard(states, heard):
    """Mean of (batch, positions, d) over the share of positions that hold sound."""
    positions = (heard.to(states.device) * states.shape[1]).ceil()[:, None]
    within = torch.arange(states.shape[1], device=states.device) < positions
    return (states * within[..., None]).sum(1) / positions


def short_name(name: str) -> str:
    """The end of a layer's name that tells it apart: `linear_q`; within a Sequential `channel_proj1.0`."""
    words = name.split(".")
    return ".".join(words[-2:]) if words[-1].isdigit() else words[-1]


def sampling(config: dict) -> tuple[int, float]:
    """Samples per second, and seconds that the encoder holds."""
    settings = config["preprocessor_conf"]
    return int(settings.get("fs", 16000)), float(settings.get("speech_length", 30))


def located(config: dict, path: Path) -> dict:
    """The config with absolute paths of the files it names. Raises SpeechMergeError for what is no BPE model."""
    whole = config.get("bpemodel") and isinstance(config.get("token_list"), list)
    if config.get("token_type") != "bpe" or not whole:
        raise SpeechMergeError(f"{path}: token_type {config.get('token_type')!r}: expected bpe, with bpemodel and "
                               "the tokens in token_list, as OWSM has")
    found = {**config, "bpemodel": str(layout.resource(config["bpemodel"], path, "bpemodel"))}
    stats = (config.get("normalize_conf") or {}).get("stats_file")
    if stats:
        stats = str(layout.resource(stats, path, "normalize_conf.stats_file"))
        found["normalize_conf"] = {**config["normalize_conf"], "stats_file": stats}
    return found


def resources(config: dict) -> list[Path]:
    stats = (config.get("normalize_conf") or {}).get("stats_file")
    return [Path(name) for name in (config["bpemodel"], stats) if name]


def decoding_weight(place: Path, network) -> float:
    """`ctc_weight` of decode.yaml, as ESPnet's decode configs have it; 0 without one."""
    path = place / layout.DECODING
    weight = layout.read_yaml(path).get("ctc_weight", 0.0) if path.is_file() else 0.0
    if not isinstance(weight, (int, float)) or not 0 <= weight <= 1 or (weight and network.ctc is None):
        raise SpeechMergeError(f"{path}: key ctc_weight: found {weight!r}, expected a number from 0 to 1, 0 without "
                               "CTC")
    return float(weight)
