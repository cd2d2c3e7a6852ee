"""A tiny random Whisper and tiny data directories, so that tests need no network, no corpus and no espeak-ng.

    base = tiny_whisper(tmp_path / "base")    # 61 k parameters, loads with transformers and with load_model
    data = tiny_tones(tmp_path / "data/kws/train", task="kws", n=24)    # one tone per keyword: learnable in seconds
"""
from pathlib import Path

import numpy as np
import soundfile

LANGUAGES = ("en", "es", "de", "it", "hi", "pa", "te", "und")
TASKS = ("transcribe", "kws", "intent", "emotion", "langid", "speaker_id", "speaker_ver")
LABELS = {
    "kws": ("keyword", ["yes", "no", "stop"]),
    "intent": ("intent", ["light on", "light off", "play"]),
    "emotion": ("emotion", ["angry", "happy", "sad"]),
    "langid": (None, ["de", "en", "it"]),
    "speaker_id": (None, ["s0", "s1", "s2"]),
}
RATE = 16000


def tiny_tokenizer(dir):
    """Character tokenizer with the special tokens of the mini base; written to `dir` for AutoTokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = ["▁"] + list("abcdefghijklmnopqrstuvwxyz0123456789' _-") + list("àèìòùáéíóúäöüßñ")
    vocab = {token: i for i, token in enumerate(["<unk>"] + characters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<|startoftranscript|>", "<|notimestamps|>"]
    special += [f"<|{name}|>" for name in (*LANGUAGES, *TASKS)]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<|startoftranscript|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", additional_special_tokens=special,
    )
    fast.save_pretrained(dir)
    return fast


def tiny_whisper(dir, seed=0, d_model=32, layers=2, chunk_length=4):
    """Writes a random Whisper (config, weights, tokenizer, feature extractor, generation config) and returns `dir`."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    dir = Path(dir)
    tokenizer = tiny_tokenizer(dir)
    WhisperFeatureExtractor(chunk_length=chunk_length, hop_length=320).save_pretrained(dir)
    eos, start = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=d_model, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=2 * d_model, decoder_ffn_dim=2 * d_model,
        max_source_positions=chunk_length * 25, max_target_positions=64, num_mel_bins=80, pad_token_id=eos,
        bos_token_id=start, eos_token_id=eos, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None,
        init_std=0.2,  # with 0.02 the tied output layer is so small that an adapter could never decide on a token
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)
        model.model.decoder.embed_tokens.weight.data[eos].normal_(0, config.init_std)  # the padding row starts as zeros
    model.generation_config.update(decoder_start_token_id=start, eos_token_id=eos, pad_token_id=eos, bos_token_id=start)
    model.save_pretrained(dir)
    return dir


def tone(frequency, seconds, seed=0):
    """A decaying tone with two harmonics and a little noise, float32 at 16 kHz."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in (1, 2, 3)) * np.exp(-time)
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    return (0.3 * wave + noise).astype(np.float32)


def tiny_tones(dir, task="kws", n=24, seed=0):
    """A data directory of `n` tones; the pitch tells the label (for asr: the words). Returns the directory as a Path.

    Tables as in Kaldi: wav.scp text utt2spk spk2utt utt2lang utt2dur, the task's label table and `labels`; for
    speaker_ver the pitch is the speaker and `trials` pairs neighbours.
    """
    dir = Path(dir)
    (dir / "wav").mkdir(parents=True, exist_ok=True)
    field, labels = LABELS.get(task, (None, ["yes", "no", "stop"]))
    random = np.random.default_rng(seed)
    tables = {name: [] for name in ("wav.scp", "text", "utt2spk", "utt2lang", "utt2dur")}
    chosen = []
    for i in range(n):
        which = i % len(labels)
        seconds = float(random.uniform(0.6, 1.8))
        speaker, utt = f"s{which}", f"s{which}-{i:03d}"
        path = dir / "wav" / f"{utt}.wav"
        soundfile.write(path, tone(180 * 1.6 ** which, seconds, seed=seed * 1000 + i), RATE)
        language = labels[which] if task == "langid" else "en"
        row = {"wav.scp": path, "text": labels[which], "utt2spk": speaker, "utt2lang": language,
               "utt2dur": f"{seconds:.3f}"}
        for name, value in row.items():
            tables[name].append((utt, str(value)))
        chosen.append((utt, labels[which]))
    if field:
        tables[f"utt2{field}"] = chosen
    tables["spk2utt"] = _speakers(tables["utt2spk"])
    for name, rows in tables.items():
        (dir / name).write_text("".join(f"{key} {value}\n" for key, value in sorted(rows)), encoding="utf-8")
    if task in LABELS:
        (dir / "labels").write_text("".join(f"{label}\n" for label in sorted(labels)), encoding="utf-8")
    if task == "speaker_ver":
        _write_trials(dir, [utt for utt, _ in chosen])
    return dir


def _speakers(utt2spk):
    speakers = {}
    for utt, speaker in sorted(utt2spk):
        speakers.setdefault(speaker, []).append(utt)
    return [(speaker, " ".join(utts)) for speaker, utts in speakers.items()]


def _write_trials(dir, utts):
    rows = []
    for i, (first, second) in enumerate(zip(utts, utts[3:])):
        rows.append(f"t{i:03d}-a {first} {second} target")
        rows.append(f"t{i:03d}-b {first} {utts[(i + 1) % len(utts)]} nontarget")
    (dir / "trials").write_text("\n".join(rows) + "\n", encoding="utf-8")


def watch(monkeypatch, make_callback) -> list:
    """What every trainer that is made from now on is watched by: `make_callback(trainer)`, one for each."""
    from speechmerge.train import run

    seen, original = [], run.make_trainer

    def make(*args):
        trainer = original(*args)
        seen.append(make_callback(trainer))
        trainer.add_callback(seen[-1])
        return trainer

    monkeypatch.setattr(run, "make_trainer", make)
    return seen
