"""What every converter to a transformers Whisper folder shares: configuration, tokenizer files, checks, writing.

A folder that is written holds config.json, generation_config.json, model.safetensors (output layer tied to the
embeddings), tokenizer.json, tokenizer_config.json and preprocessor_config.json.
"""
import json
import sys
from pathlib import Path

from convert_tiktoken import completed

from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_dir, read_json, write_json
from speechmerge.models.loading import DTYPES
from speechmerge.models.whisper import ENGLISH_ONLY

NEEDED = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
TIED = {"proj_out.weight"}
FIRST_TIMESTAMP_WITHIN = 50  # steps of 20 ms: a first timestamp lies within the first second, as in openai/whisper


def read_tokenizer(path: Path) -> dict:
    """The content of tokenizer.json, with all merges. Raises SpeechMergeError where it is not there."""
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; copy tokenizer.json of this Whisper from its transformers folder")
    return completed(read_json(path))


def special_tokens(tokenizer: dict, path, vocabulary: int) -> dict[str, int]:
    """Special tokens to ids, checked against the size of the network's vocabulary."""
    tokens = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    for needed in NEEDED:
        if needed not in tokens:
            raise SpeechMergeError(f"{path}: has no {needed}; this is no Whisper tokenizer")
    largest = max([*tokens.values(), *tokenizer["model"]["vocab"].values()])
    if largest >= vocabulary:
        raise SpeechMergeError(f"{path}: has ids up to {largest}, the model has {vocabulary}: these are two models")
    return tokens


def model_config(sizes: dict, tokens: dict[str, int]):
    """WhisperConfig. `sizes`: vocab_size, d_model, layers, heads, feed-forward widths, positions, mel bins."""
    from transformers import WhisperConfig

    end = tokens["<|endoftext|>"]
    return WhisperConfig(**sizes, decoder_start_token_id=tokens["<|startoftranscript|>"], bos_token_id=end,
                         eos_token_id=end, pad_token_id=end)


def generation_config(config, tokens: dict[str, int], suppressed=None, suppressed_first=None, alignment_heads=None):
    """What openai/whisper-* has in generation_config.json, from the special tokens and the ids that are not written.

    A model for English only has tokens for languages too, but was never trained on them; they are not named then.
    """
    from transformers import GenerationConfig
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    languages = {f"<|{code}|>": tokens[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in tokens}
    tasks = {name: tokens[f"<|{name}|>"] for name in ("transcribe", "translate") if f"<|{name}|>" in tokens}
    multilingual = len(languages) > 1 and config.vocab_size != ENGLISH_ONLY
    extra = {"lang_to_id": languages, "task_to_id": tasks} if multilingual else {}
    end = tokens["<|endoftext|>"]
    return GenerationConfig(
        is_multilingual=multilingual, no_timestamps_token_id=tokens["<|notimestamps|>"],
        prev_sot_token_id=tokens.get("<|startofprev|>"), decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, max_length=config.max_target_positions,
        max_initial_timestamp_index=FIRST_TIMESTAMP_WITHIN, return_timestamps=False, alignment_heads=alignment_heads,
        suppress_tokens=suppressed, begin_suppress_tokens=suppressed_first, **extra)


def build_model(config, state: dict, path):
    """WhisperForConditionalGeneration in float32 with these weights; every tensor accounted for."""
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(config)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # sizes differ: the tensors contradict each other
        raise SpeechMergeError(f"{path}: {str(error).splitlines()[-1].strip()}") from error
    missing = set(missing) - TIED
    if missing or unexpected:
        raise SpeechMergeError(f"{path}: left over after the conversion: missing {sorted(missing)}, "
                               f"unexpected {sorted(unexpected)}")
    model.tie_weights()
    return model


def write_folder(model, tokenizer: dict, tokens: dict[str, int], target, dtype: str = "float32"):
    """Write `target` (replaced as a whole), weights in the type `dtype`."""
    import torch
    from transformers import WhisperFeatureExtractor

    with atomic_dir(target) as folder:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        write_json(folder / "tokenizer_config.json", tokenizer_config(tokens, model.config.max_target_positions))
        WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)


def tokenizer_config(tokens: dict[str, int], positions: int) -> dict:
    end = "<|endoftext|>"
    return {"tokenizer_class": "WhisperTokenizer", "model_max_length": positions, "errors": "replace",
            "bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end, "add_prefix_space": False,
            "additional_special_tokens": [token for token in tokens if token != end],
            "clean_up_tokenization_spaces": False, "return_attention_mask": False}


def add_dtype(parser):
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights written (default: float32)")


def report(name: str, target, convert) -> int:
    """Run `convert`, which returns the model, and say what came of it; the exit status."""
    try:
        model = convert()
    except SpeechMergeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
          f"{model.config.encoder_layers} + {model.config.decoder_layers} layers, d {model.config.d_model}")
    return 0
