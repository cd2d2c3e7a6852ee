"""Spoken language understanding with a reason before the answer: `utt2rationale` in words, then the frame of `utt2slu`.

    the first hypothesis fits best, they want to be woken {"scenario":"alarm","action":"set","entities":[{"time":"ten"}]}

`utt2candidates` holds the hypotheses of a recogniser (a JSON list) that the rationale weighs; a prompt may show them as
{candidates}. Only the frame is scored.
"""
import json

from speechmerge.errors import SpeechMergeError
from speechmerge.metrics.slu import f1, frame_tables, totals
from speechmerge.tasks import TASKS
from speechmerge.tasks.frame import EXAMPLE, encode, frames_in, nothing
from speechmerge.tasks.slu import SLU, keys_of


@TASKS.register("slu_rationale")
class SLURationale(SLU):
    """Spoken language understanding with a rationale before the frame; SLU-F1 of the frame decides."""

    name = "slu_rationale"
    max_new_tokens = 512
    prompt = "What does the speaker want, and why? Then the scenario, the action and the entities."
    instruction = ("What does the speaker want? Give your reasons in words, then scenario, action and entities in this "
                   "form: " + encode(EXAMPLE, "json").replace("{", "{{").replace("}", "}}"))
    formats = ("json", "compact")  # which are found after other text

    def target_of(self, data, utterance, frame):
        rationale = utterance.labels.get("rationale")
        if not rationale:
            raise SpeechMergeError(f"{data.path / 'utt2rationale'}: no rationale for utterance {utterance.id}; prepare the "
                                   "data with --corpus rationale")
        return json.dumps({**frame, "rationale": rationale}, ensure_ascii=False)

    def written(self, target):
        return f"{json.loads(target)['rationale']} {super().written(target)}"

    def answer(self, text: str) -> tuple[str, dict | None]:
        """(rationale, frame): the last frame of the text and what stands before it; without one all is rationale."""
        place, frame = ([(len(text), None), *frames_in(text)])[-1]
        return text[:place].strip(), frame

    def frame_of(self, text):
        return self.answer(text)[1]

    def published(self, data, refs, hyps):
        """`prediction.jsonl` with all that was given and written, `prediction_labels_only.jsonl` with frames as SLURP's
        evaluator reads them, `metrics_label_only.json`. Every utterance has its line."""
        whole, labels = [], []
        for id in sorted(refs):
            utterance, text = data.utterances[id], hyps.get(id, "")
            rationale, frame = self.answer(text)
            frame = frame or nothing()
            named = {**keys_of(utterance), **frame, "intent": intent(frame)}
            candidates = json.loads(utterance.labels.get("candidates") or "[]")
            whole.append({"filename": f"{id}.flac", "candidates": candidates, "rationale": rationale, "raw_output": text,
                          "target": self.written(refs[id]), "prediction": frame})
            labels.append(named)
        return {"prediction.jsonl": whole, "prediction_labels_only.jsonl": labels,
                "metrics_label_only.json": self.label_metrics(refs, hyps)}

    def label_metrics(self, refs, hyps) -> dict[str, float]:
        """Accuracies and entity precision, recall, F1 over all references."""
        golds, read = self.frames(sorted(refs), refs, hyps)
        tables = frame_tables(golds, read)
        right, wrong, lost = (float(count) for count in totals(tables, "entity").sum(axis=0))
        accuracies = {f"{name}_acc": f1(tables, name) for name in ("scenario", "action", "intent")}
        return {**accuracies, "entity_precision": right / (right + wrong) if right + wrong else 0.0,
                "entity_recall": right / (right + lost) if right + lost else 0.0, "entity_f1": f1(tables, "entity"),
                "slu_f1": f1(tables, "slu"), "n": len(refs), "n_unparsed": sum(frame is None for frame in read)}


def intent(frame: dict) -> str:
    return f"{frame['scenario']}_{frame['action']}" if frame["scenario"] or frame["action"] else ""
