"""Whisper's vocabularies as openai/whisper carries them (*.tiktoken) as the tokenizer.json of transformers.

A line of such a file is a token's bytes in base64 and its rank. Pairs of parts with the lowest rank are joined first, so
the merges of a byte-level BPE follow from the ranks: a token was joined from the two parts that are left of its bytes
when all joins below its own rank are made.
"""
import base64
import binascii
import importlib.util
import json
from pathlib import Path

from speechmerge.errors import SpeechMergeError

AFTER_LANGUAGES = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
TIMESTAMPS = 1501  # of 0 to 30 s in steps of 20 ms
FIXED = 2 + len(AFTER_LANGUAGES) + TIMESTAMPS  # special tokens beside the languages
ENGLISH, MULTILINGUAL = "gpt2.tiktoken", "multilingual.tiktoken"
# what a transcript of speech has no use for: openai/whisper never writes it (its option suppress_tokens "-1")
SIGNS = [*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))",
         "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"]
NOTES = "♩♪♫♬♭♮♯"  # of several tokens each; the first one is enough
INNER = ("-", "'")  # within words only: not after a space
TOLD = ("<|startoftranscript|>", *AFTER_LANGUAGES[:5])  # given to the decoder or read off it, never written


def packaged(name: str) -> Path | None:
    """A vocabulary of the Python package openai-whisper, where that is installed. The package is not imported."""
    spec = importlib.util.find_spec("whisper")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], "assets", name) if folders else None
    return path if path and path.is_file() else None


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens to ranks. Raises SpeechMergeError for other files and for ranks that are not 0, 1, 2 ..."""
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; expected a vocabulary such as {MULTILINGUAL}")
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=token != b"=")] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise SpeechMergeError(f"{path}, line {number}: found {line[:40]!r}, expected a token in base64 and its rank "
                                   f"({error})") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise SpeechMergeError(f"{path}: ranks are not 0 to {len(ranks) - 1}, or single bytes are missing; fetch it again")
    return ranks


def parts_of(token: str, ranks: dict[str, int]) -> list[str]:
    """What is left of the token's letters when all joins below its own rank are made; a letter stands for a byte."""
    parts, own = list(token), ranks[token]
    while len(parts) > 1:
        rank, at = min((ranks.get(left + right, own), i) for i, (left, right) in enumerate(zip(parts, parts[1:])))
        if rank >= own:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def merges_of(ranks: dict[str, int]) -> dict[str, list[str]]:
    """Token -> the two parts that it is joined from, in the order of the ranks. Special tokens have none."""
    parts = {token: parts_of(token, ranks) for token in sorted(ranks, key=ranks.get) if len(token) > 1}
    return {token: found for token, found in parts.items() if len(found) == 2}


def completed(tokenizer: dict) -> dict:
    """The same tokenizer.json with the merges that it lacks. Those of multilingual Whispers from before February 2024
    lack the first, of " t" (transformers' pull request 29368): each word that begins with t was cut as in no training.
    """
    special = {token["content"] for token in tokenizer["added_tokens"]}
    ranks = {token: id for token, id in tokenizer["model"]["vocab"].items() if token not in special}
    found = {"".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in tokenizer["model"]["merges"]}
    if all(token in found for token in ranks if len(token) > 1):
        return tokenizer
    return {**tokenizer, "model": {**tokenizer["model"], "merges": list(merges_of(ranks).values())}}


def make_tokenizer(path: Path, vocabulary: int) -> dict:
    """The content of tokenizer.json for a network of `vocabulary` tokens. Raises SpeechMergeError."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, letters = read_ranks(path), byte_letters()
    special = special_of(path, len(tokens), vocabulary)
    ranks = {"".join(letters[byte] for byte in token): rank for token, rank in tokens.items()}
    tokenizer = Tokenizer(models.BPE(vocab=ranks, merges=[tuple(pair) for pair in merges_of(ranks).values()]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return json.loads(tokenizer.to_str())


def byte_letters() -> dict[int, str]:
    """The printable letter that a byte-level vocabulary has for each byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()


def special_of(path: Path, words: int, vocabulary: int) -> list[str]:
    """Special tokens in the order of their ids. The languages are the first so many of Whisper's list, by the sizes."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    languages = vocabulary - words - FIXED
    if not 0 < languages <= len(LANGUAGES):
        raise SpeechMergeError(f"{path}: has {words} tokens, the network {vocabulary}: that leaves {languages} languages, "
                               f"expected 1 to {len(LANGUAGES)}; {ENGLISH} is for models of English only (base.en), "
                               f"{MULTILINGUAL} for the others")
    spoken = [f"<|{code}|>" for code in list(LANGUAGES)[:languages]]
    times = [f"<|{i * 0.02:.2f}|>" for i in range(TIMESTAMPS)]
    return ["<|endoftext|>", "<|startoftranscript|>", *spoken, *AFTER_LANGUAGES, *times]


def unwritten(tokenizer: dict) -> list[int]:
    """Ids that openai/whisper does not let the decoder write: marks of non-speech, and the tokens that it is told."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(json.dumps(tokenizer))
    found = {made.encode(f" {sign}", add_special_tokens=False).ids[0] for sign in INNER}
    for sign in [*SIGNS, *NOTES]:
        for text in (sign, f" {sign}"):
            ids = made.encode(text, add_special_tokens=False).ids
            if len(ids) == 1 or sign in NOTES:
                found.add(ids[0])
    return sorted(found | {made.token_to_id(token) for token in TOLD if made.token_to_id(token) is not None})


def unwritten_first(tokenizer: dict, end: int) -> list[int]:
    """Ids that are no first token: the end, and a space alone."""
    space = tokenizer["model"]["vocab"].get(byte_letters()[ord(" ")])
    return [*([] if space is None else [space]), end]
