"""Templates of prompts: `Which of {labels}?`, filled for one utterance of a data directory.

{labels} the label set, {transcript} `text`, {question} `utt2question`, {language} the Whisper code, {target_language}
the name in English of the language that `utt2target_lang` names, {candidates} the hypotheses of `utt2candidates`.
"""
import json
import string

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

FIELDS = {"labels": "labels", "transcript": "text", "question": "utt2question", "language": "utt2lang",
          "target_language": "utt2target_lang", "candidates": "utt2candidates"}  # field -> where it stands
INPUTS = ("audio", "text", "audio+text")  # of an utterance: its sound, its transcript, or both
TRANSCRIPT = "Transcript: {transcript}"


def template_fields(template: str) -> list[str]:
    """Names of the fields of a prompt template. Raises UsageError where it cannot be read as one."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"--prompt {template!r}: {error}; a brace that is meant is written twice") from error
    if any(spec or conversion for _, _, spec, conversion in pieces):
        raise UsageError(f"--prompt {template!r}: fields are plain names, without : or !")
    return [field for _, field, _, _ in pieces if field is not None]


def check_template(template: str):
    for field in template_fields(template):
        if field not in FIELDS:
            raise UsageError(f"--prompt {template!r}: unknown field {{{field}}}; {nearest(field, FIELDS)}")


def filled(template: str, data, utterance, labels, task: str) -> str:
    """The template with what is known of an utterance. Raises SpeechMergeError where a field is missing."""
    values = {field: value_of(field, utterance, labels) for field in template_fields(template)}
    if missing := sorted(field for field, value in values.items() if not value):
        place = f"{data.path / FIELDS[missing[0]]}: " if data is not None else ""
        raise SpeechMergeError(f"{place}utterance {utterance.id} has no {missing[0]}, which the prompt {template!r} of "
                               f"the task {task} asks for")
    return template.format(**values)


def value_of(field: str, utterance, labels) -> str | None:
    """`utterance`: of a data directory; or an Example, which knows languages only."""
    tables = getattr(utterance, "labels", {})
    if field == "labels":
        return ", ".join(labels or ())
    if field == "transcript":
        return getattr(utterance, "text", None)
    if field == "target_language":
        return language_name(tables.get("target_lang") or getattr(utterance, "target_language", None))
    if field == "candidates":
        return numbered(tables.get("candidates"))
    return utterance.language if field == "language" else tables.get(field)


def language_name(code: str | None) -> str | None:
    """`de` -> `German`; a code that Whisper does not know stays as it is."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return LANGUAGES.get(code, code).title() if code else None


def numbered(table: str | None) -> str | None:
    """A JSON list of texts as lines `1. text`."""
    return "\n".join(f"{place}. {text}" for place, text in enumerate(json.loads(table), 1)) if table else None
