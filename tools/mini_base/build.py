"""The untrained mini base: a small Whisper, its tokenizer and its feature extractor, as one folder.

    python tools/mini_base/build.py DIR        # random weights
"""
import argparse
import io
import random
from pathlib import Path

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration

from speechmerge.corpora.mini.text import Grammar, read_words

LANGUAGES = ("en", "es", "de", "it", "hi", "pa", "te")
SIBLING_LANGUAGES = tuple(read_words("siblings"))
TASKS = ("transcribe", "kws", "intent", "emotion", "langid", "speaker_id", "speaker_ver")
PIECES = 1200  # without the special tokens
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|und|>", "<|notimestamps|>"]
SPECIAL += [f"<|{name}|>" for name in LANGUAGES + TASKS]
SEED = 20


def label_words() -> list[str]:
    """Every word of every label set, the base's and the tasks'."""
    words = []
    for sets in read_words("labels").values():
        for labels in sets.values():
            words += labels
            words += [str(v) for v in labels.values() if isinstance(v, str)] if isinstance(labels, dict) else []
    return words


def train_pieces(lines: list[str]) -> list[tuple[str, float]]:
    """sentencepiece's unigram pieces with their log-probabilities; every character of `lines` is one of them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=PIECES, model_type="unigram",
        character_coverage=1.0, bos_id=-1, eos_id=-1, unk_id=0, normalization_rule_name="identity", num_threads=1, minloglevel=2)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer over sentences and words of all languages; characters as a last resort."""
    rng = random.Random(SEED)
    lines = label_words() * 20
    for language in LANGUAGES:
        grammar = Grammar(language)
        lines += grammar.all_text() * 3 + [grammar.sentence(rng, "train") for _ in range(400)]
        lines += [grammar.intent(rng, label, "train") for label in grammar.intents() for _ in range(30)]
    tokenizer = Tokenizer(models.Unigram(train_pieces(lines), unk_id=0))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<|endoftext|>",
                                   eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=96)
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    return fast


def make_extractor() -> WhisperFeatureExtractor:
    """80 mels, 20 ms hop, 4 s at most: 200 frames, 100 encoder positions of 40 ms."""
    return WhisperFeatureExtractor(feature_size=80, sampling_rate=16000, hop_length=320, chunk_length=4, n_fft=400)


def make_model(tokenizer) -> WhisperForConditionalGeneration:
    """Random weights, always the same for SEED."""
    end, start = tokenizer.convert_tokens_to_ids(SPECIAL[:2])
    torch.manual_seed(SEED)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, d_model=144, encoder_layers=4, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=576, decoder_ffn_dim=576,
        max_source_positions=100, max_target_positions=96, dropout=0.0, decoder_start_token_id=start,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, suppress_tokens=None, begin_suppress_tokens=None)
    model = WhisperForConditionalGeneration(config)
    ids = tokenizer.convert_tokens_to_ids
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end, max_length=96,
        is_multilingual=True, no_timestamps_token_id=ids("<|notimestamps|>"), return_timestamps=False,
        lang_to_id={f"<|{name}|>": ids(f"<|{name}|>") for name in LANGUAGES},
        task_to_id={name: ids(f"<|{name}|>") for name in TASKS}, suppress_tokens=None, begin_suppress_tokens=None)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    output_dir = parser.parse_args().output_dir
    tokenizer = make_tokenizer()
    for part in (tokenizer, make_extractor(), make_model(tokenizer)):
        part.save_pretrained(output_dir)


if __name__ == "__main__":
    main()
