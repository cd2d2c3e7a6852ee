"""Scores of decoded code-switching sets: code_switch.json beside each hyp."""
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json
from speechmerge.metrics.wer import error_rates
from speechmerge.route.switch_metrics import interest_errors, switch_report
from speechmerge.route.timeline import parse_segments, segments_of
from speechmerge.scoring import read_hypotheses

FILE = "code_switch.json"


def score_folder(folder, normaliser: str = "basic") -> dict:
    """WER, PIER, and of routed systems the timeline, of one exp/decode/<split>/<system>/<set>."""
    folder = Path(folder)
    record = read_json(folder / "decode.json")
    data = DataDir.read(record["data"])
    if any("word_labels" not in utterance.labels for utterance in data.utterances.values()):
        raise SpeechMergeError(f"{data.path}: has no utt2word_labels; code-switching sets are made by speechmerge code-switch")
    hyps = read_hypotheses(folder / "hyp")
    ids = sorted(data.utterances)
    errors = words = 0
    for id in ids:
        utterance = data.utterances[id]
        labels = utterance.labels["word_labels"].split()
        interesting = [label != utterance.labels["matrix"] for label in labels]
        found, total = interest_errors(utterance.text.split(), interesting, hyps.get(id, ""), normaliser)
        errors, words = errors + found, words + total
    rates = error_rates([data.utterances[id].text for id in ids], [hyps.get(id, "") for id in ids], normaliser)
    report = {"system": record["system"]["name"], "n": len(ids), "wer": rates.wer, "pier": errors / words if words else None,
              "switched_words": words, "normaliser": normaliser, **timelines(folder, record, data)}
    write_json(folder / FILE, report)
    return report


def timelines(folder: Path, record: dict, data: DataDir) -> dict:
    """Of a routed system; one that decides per utterance says one label all the time."""
    if not (folder / "routes").is_file():
        return {}
    per_frame = record["system"]["routing"]["level"] == "frame"
    true, found = [], []
    for id, text in sorted(read_hypotheses(folder / "routes").items()):
        utterance = data.utterances[id]
        true.append(parse_segments(utterance.labels["segments"], f"{data.path}/utt2segments: {id}"))
        label, _, *rest = text.split()
        found.append(parse_segments(" ".join(rest), f"{folder}/routes: {id}") if per_frame else
                     segments_of([0], [label], true[-1][-1].end))
    ahead = record["system"]["routing"]["window"] / 2 if per_frame else None
    report = switch_report(true, found, ahead or 0.0)
    return {"timeline": report if per_frame else {"frame_accuracy": report["frame_accuracy"]}}
