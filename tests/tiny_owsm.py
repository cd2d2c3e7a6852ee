"""A small random speech-to-text model of ESPnet (E-Branchformer, Transformer decoder), made by espnet2's task class.

    base = tiny_owsm(tmp_path / "base")    # config.yaml, valid.acc.ave.pth, bpe.model, feats_stats.npz, as ESPnet saves
    found = speech2text(base, lang_sym="<eng>", beam_size=5)    # espnet2's own decoding of it
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

SPECIAL = ["<na>", "<nospeech>", "<eng>", "<deu>", "<ita>", "<hin>", "<pan>", "<tel>", "<asr>", "<st_eng>", "<st_deu>",
           "<notimestamps>", "<sop>"]
SECONDS = 4  # that the encoder holds
MELS = 20
WORDS = ["yes no stop go on", "light on off play", "angry happy sad neutral", "the lamp in kitchen please",
         "ja nein halt",
         "sì no ferma", "which language is spoken", "what keyword is it", "äöüß àèìòù"]


def tiny_owsm(folder, seed=0, layers=2, size=32, layout="flat", **changes) -> Path:
    """Writes the model and returns its folder. layout "zoo": as published, under exp/ and data/ with a meta.yaml.

    changes: of config.yaml.
    """
    folder = Path(folder)
    zoo = layout == "zoo"
    places = {"bpe": "data/token_list/bpe/bpe.model" if zoo else "bpe.model", "exp": "exp/s2t_train" if zoo else ".",
              "stats": "exp/s2t_stats/feats_stats.npz" if zoo else "feats_stats.npz"}
    for name in places.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / places["exp"]).mkdir(exist_ok=True)
    tokens = write_vocabulary(folder / places["bpe"])
    write_statistics(folder / places["stats"])
    config = {**tiny_config(tokens, layers, size), **changes}
    config.setdefault("bpemodel", places["bpe"])
    config.setdefault("normalize_conf", {"stats_file": places["stats"]})
    network = make(folder, config, seed)
    torch.save(network.state_dict(), folder / places["exp"] / "valid.acc.ave.pth")
    (folder / places["exp"] / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    if zoo:
        (folder / "meta.yaml").write_text(yaml.safe_dump({
            "espnet": "202511", "files": {"s2t_model_file": "exp/s2t_train/valid.acc.ave.pth"},
            "yaml_files": {"s2t_train_config": "exp/s2t_train/config.yaml"}}))
    return folder


def write_vocabulary(path: Path) -> list[str]:
    """A SentencePiece model of a few letters and words, as ESPnet's recipes train it; returns the token list."""
    import sentencepiece

    times = [f"<{0.02 * i:.2f}>" for i in range(SECONDS * 50 + 1)]
    symbols = SPECIAL + times
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 3 + [" ".join("abcdefghijklmnopqrstuvwxyz0123456789'?")]),
        model_prefix=str(path)[:-6], vocab_size=len(symbols) + 90, model_type="unigram", user_defined_symbols=symbols,
        minloglevel=2, hard_vocab_limit=False, character_coverage=1.0)
    path.with_suffix(".vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    own = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    rest = [piece for piece in own if piece not in ("<unk>", "<s>", "</s>", "<sop>")]
    return ["<blank>", "<unk>", *rest, "<sos>", "<eos>", "<sop>"]


def write_statistics(path: Path):
    random = np.random.default_rng(0)
    mean = -8 + random.normal(0, 1, MELS)
    np.savez(path, count=1000, sum=1000 * mean, sum_square=1000 * (mean ** 2 + 9))


def tiny_config(tokens: list[str], layers: int, size: int) -> dict:
    """Of OWSM v4's shape; dropout is off, so that a test sees the same network while it trains and afterwards."""
    quiet = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    return {
        "token_list": tokens, "token_type": "bpe", "init": None, "input_size": None, "use_adapter": False,
        "preprocessor": "s2t",
        "preprocessor_conf": {"fs": 16000, "speech_length": SECONDS, "speech_resolution": 0.02, "na_symbol": "<na>",
                              "notime_symbol": "<notimestamps>", "first_time_symbol": "<0.00>",
                              "last_time_symbol": f"<{SECONDS}.00>"},
        "frontend": "default", "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": MELS,
                                                 "fs": "16k"},
        "specaug": "specaug", "specaug_conf": {"apply_time_mask": True, "time_mask_width_ratio_range": [0.0, 0.05]},
        "normalize": "global_mvn",
        "encoder": "e_branchformer", "encoder_conf": {
            "output_size": size, "attention_heads": 2, "cgmlp_linear_units": 2 * size, "cgmlp_conv_kernel": 7,
            "num_blocks": layers, "input_layer": "conv2d", "use_ffn": True, "macaron_ffn": True,
            "linear_units": 2 * size, "merge_conv_kernel": 7,
            "attention_layer_type": "selfattn", "pos_enc_layer_type": "abs_pos", **quiet},
        "decoder": "transformer", "decoder_conf": {
            "attention_heads": 2, "linear_units": 2 * size, "num_blocks": layers, **quiet},
        "ctc_conf": {}, "model": "espnet",
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "length_normalized_loss": False, "report_cer": False,
                       "report_wer": False, "sym_sos": "<sos>", "sym_eos": "<eos>", "sym_sop": "<sop>",
                       "sym_na": "<na>"},
    }


def make(folder: Path, config: dict, seed: int):
    from speechmerge.models.owsm.network import S2TTask

    named = {**config, "normalize_conf": {"stats_file": str(folder / config["normalize_conf"]["stats_file"])}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = S2TTask.build_model(argparse.Namespace(**named))
        for name, parameter in network.named_parameters():  # livelier than the start, so that texts are no constants
            if parameter.dim() > 1:
                parameter.data.mul_(2.0)
    return network


def speech2text(folder, resources=None, **options):
    """espnet2's Speech2Text of a folder that `tiny_owsm` or `save` wrote, paths made absolute as ESPnet's zoo does.

    resources: the folder that has vocabulary and statistics, where it is another.
    """
    from espnet2.bin.s2t_inference import Speech2Text

    folder, resources = Path(folder), Path(resources or folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["bpemodel"] = str(resources / Path(config["bpemodel"]).name)
    config["normalize_conf"] = {"stats_file": str(resources / Path(config["normalize_conf"]["stats_file"]).name)}
    named = folder.with_name(folder.name + ".yaml")
    named.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    weights = next(path for path in folder.iterdir() if path.suffix == ".pth")
    return Speech2Text(named, weights, **options)
