"""Reference and prediction files as corpora and their evaluators publish them -> {id: text} as the tasks score it.

    refs = slurp_gold("dataset/slurp/test.jsonl")            # {"audio-1497872916-headset.flac": '{"scenario": ...}'}
    refs = squad_answers("spoken_test-v1.1.json")            # {"56be4db0acb8001400a502ec": '["Denver Broncos", ...]'}
"""
import json
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.scoring import read_hypotheses
from speechmerge.tasks.frame import as_frame, encode

TRIAL_WORDS = {"target": "yes", "1": "yes", "nontarget": "no", "0": "no"}


def read_json_file(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SpeechMergeError(f"{path}: not JSON ({error})") from error


def read_json_lines(path):
    """Yield (line number, object) of a JSONL file."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise SpeechMergeError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise SpeechMergeError(f"{path}:{number}: found a {type(value).__name__}, expected a JSON object per line")
        yield number, value


def slurp_gold(path, by_prompt: bool = False) -> dict[str, str]:
    """Frames of SLURP's `test.jsonl` by file name of the recording; by_prompt: by slurp_id (`--load-gold`).

    A filler is the lower-cased surface of its tokens: "jessica 's".
    """
    found = {}
    for number, record in read_json_lines(path):
        try:
            keys = [str(record["slurp_id"])] if by_prompt else [recording["file"] for recording in record["recordings"]]
            entities = [{"type": entity["type"],
                         "filler": " ".join(record["tokens"][place]["surface"].lower() for place in entity["span"])}
                        for entity in record["entities"]]
            frame = {"scenario": record["scenario"], "action": record["action"], "entities": entities}
        except (KeyError, IndexError, TypeError) as error:
            raise SpeechMergeError(f"{path}:{number}: not a record of SLURP ({type(error).__name__}: {error}); "
                                   "expected slurp_id, scenario, action, tokens, entities, recordings") from error
        found.update((key, encode(frame, "json")) for key in keys)
    return found


def slurp_predictions(path, by_prompt: bool = False) -> dict[str, str]:
    """Frames of a prediction file by `file` (by_prompt: by `slurp_id`); of several lines for one the last counts."""
    key, found = "slurp_id" if by_prompt else "file", {}
    for number, record in read_json_lines(path):
        frame = as_frame(record)
        if key not in record or frame is None:
            raise SpeechMergeError(f"{path}:{number}: expected an object with {key}, scenario, action and entities "
                                   "[{type, filler}]" + ("" if by_prompt else "; of gold transcripts: --load-gold"))
        found[str(record[key])] = encode(frame, "json")
    return found


def squad_answers(path) -> dict[str, str]:
    """Gold answers of a SQuAD v1.1 file by question id, each a JSON list."""
    try:
        answers = {qa["id"]: [answer["text"] for answer in qa["answers"]] for article in read_json_file(path)["data"]
                   for paragraph in article["paragraphs"] for qa in paragraph["qas"]}
    except (KeyError, TypeError) as error:
        raise SpeechMergeError(f"{path}: not a SQuAD v1.1 file ({type(error).__name__}: {error}); expected data, "
                               "paragraphs, qas, answers") from error
    if unanswerable := [id for id, texts in answers.items() if not texts]:
        raise SpeechMergeError(f"{path}: question {unanswerable[0]} has no gold answer; in SQuAD v1.1 all have one")
    return {id: json.dumps(texts, ensure_ascii=False) for id, texts in answers.items()}


def squad_predictions(path) -> dict[str, str]:
    """{question id: answer} of a JSON file."""
    found = read_json_file(path)
    if not isinstance(found, dict) or not all(isinstance(answer, str) for answer in found.values()):
        raise SpeechMergeError(f"{path}: expected one JSON object {{question id: answer}}")
    return found


def trial_answers(path) -> dict[str, str]:
    """yes or no by trial: lines `trial enrol test target|nontarget`; or Kaldi's `enrol test target|nontarget` and
    VoxCeleb's `1|0 enrol test`, whose trials are named `enrol test`."""
    found = {}
    for number, words in split_lines(path):
        if words[-1] in ("target", "nontarget") and len(words) in (2, 3, 4):
            trial, word = " ".join(words[:2]) if len(words) == 3 else words[0], words[-1]
        elif words[0] in ("0", "1") and len(words) == 3:
            trial, word = " ".join(words[1:]), words[0]
        else:
            raise SpeechMergeError(f"{path}:{number}: found {' '.join(words)!r}, expected `trial enrol test "
                                   "target|nontarget`, `enrol test target|nontarget` or `1|0 enrol test`")
        if found.setdefault(trial, TRIAL_WORDS[word]) != TRIAL_WORDS[word]:
            raise SpeechMergeError(f"{path}:{number}: the trial {trial!r} stands there as target and as nontarget")
    return found


def trial_scores(path) -> dict[str, float]:
    """Lines `trial number`, or `enrol test number` for VoxCeleb's lists."""
    found = {}
    for number, words in split_lines(path):
        try:
            found[" ".join(words[:-1])] = float(words[-1])
        except ValueError as error:
            raise SpeechMergeError(f"{path}:{number}: found {words[-1]!r}, expected a number") from error
    return found


def split_lines(path):
    """Yield (line number, words) of lines that are not empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error})") from error
    yield from ((number, line.split()) for number, line in enumerate(lines, 1) if line.strip())


READERS = {  # task -> (references, hypotheses)
    "slu": (slurp_gold, slurp_predictions), "speech_qa": (squad_answers, squad_predictions),
    "speaker_ver": (trial_answers, read_hypotheses),
}


def read_pair(task: str, ref, hyp, by_prompt: bool = False) -> tuple[dict, dict]:
    """(references, hypotheses) of a task; `id text` lines for tasks without a published file format.

    Predictions for what is not in the references are ignored where the published evaluators do.
    """
    read_ref, read_hyp = READERS.get(task, (read_hypotheses, read_hypotheses))
    more = {"by_prompt": by_prompt} if task == "slu" else {}
    refs, hyps = read_ref(ref, **more), read_hyp(hyp, **more) if hyp else {}
    if task in ("slu", "speech_qa"):
        hyps = {id: text for id, text in hyps.items() if id in refs}
    return refs, hyps
