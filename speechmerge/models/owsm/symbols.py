"""The vocabulary of an ESPnet speech-to-text model: symbols for languages and tasks, SentencePiece for the rest."""
import functools
import re
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.models.owsm import languages

LANGUAGE = re.compile(r"<([a-z]{3})>")
NO_LANGUAGE = {"<asr>", "<sos>", "<eos>", "<sop>", "<unk>"}  # three letters too
UNKNOWN = ("<nolang>", "<und>", "<eng>")  # of these the first that is there stands for a language that is not told


class Symbols:
    """Token ids by symbol. Raises SpeechMergeError where token list and SentencePiece model do not belong together."""

    def __init__(self, tokens: list[str], bpe: Path, settings: dict, source: str):
        import sentencepiece

        self.tokens, self.source, self.settings = tokens, source, settings
        self.ids = {token: id for id, token in enumerate(tokens)}
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(bpe))
        own = [self.pieces.id_to_piece(i) for i in range(self.pieces.get_piece_size())]
        strange = [piece for piece in own if piece not in self.ids and piece not in ("<s>", "</s>")]
        if strange:
            raise SpeechMergeError(f"{bpe}: {len(strange)} of {len(own)} pieces, such as {strange[0]!r}, are not in "
                                   f"the token list of {source}; copy both from the same model")
        self.no_time = self.id(settings.get("notime_symbol", "<notimestamps>"))
        first, last = settings.get("first_time_symbol", "<0.00>"), settings.get("last_time_symbol", "<30.00>")
        self.times = (self.id(first), self.id(last))

    def id(self, symbol: str) -> int:
        if symbol not in self.ids:
            raise SpeechMergeError(f"{self.source}: no {symbol} in its token list; this is no OWSM-style vocabulary")
        return self.ids[symbol]

    def text_ids(self, text: str) -> list[int]:
        """Without special symbols; what the model has no piece for becomes `<unk>`."""
        return [self.ids.get(piece, self.ids["<unk>"]) for piece in self.pieces.encode(text, out_type=str)]

    def text(self, ids) -> str:
        """Without symbols in angle brackets, as ESPnet's `text_nospecial`."""
        kept = [token for token in (self.tokens[id] for id in ids) if not (token[0] == "<" and token[-1] == ">")]
        return self.pieces.decode(kept)

    @functools.cached_property
    def languages(self) -> dict[str, int]:
        """Code of three letters -> token id, of all languages."""
        return {match.group(1): id for id, token in enumerate(self.tokens)
                if token not in NO_LANGUAGE and (match := LANGUAGE.fullmatch(token))}

    @functools.lru_cache(maxsize=None)
    def language(self, code: str | None) -> int:
        """Raises SpeechMergeError for a language that the model does not know."""
        if not code or code == "und":
            return self.ids[next((name for name in UNKNOWN if name in self.ids), f"<{min(self.languages)}>")]
        for name in languages.candidates(code):
            if name in self.languages:
                return self.languages[name]
        raise SpeechMergeError(f"{self.source}: no token for the language {code!r} (tried "
                               f"{', '.join(f'<{name}>' for name in languages.candidates(code))}); correct utt2lang, "
                               "or give und for a language that is not told")

    def task(self, target_language: str | None) -> int:
        """`<asr>`, or `<st_deu>` for a translation into German."""
        if not target_language:
            return self.id("<asr>")
        tried = [f"<st_{name}>" for name in languages.candidates(target_language)]
        for symbol in tried:
            if symbol in self.ids:
                return self.ids[symbol]
        known = ", ".join(token[4:-1] for token in self.tokens if token.startswith("<st_"))
        raise SpeechMergeError(f"{self.source}: no token for translation into {target_language!r} (tried "
                               f"{', '.join(tried)}); it translates into {known or 'no language'}; correct "
                               "utt2target_lang")
