"""Spoken language understanding: scenario, action and entities of a command, as JSON in `utt2slu`.

    {"scenario":"alarm","action":"query","entities":[{"type":"event_name","filler":"dance class"}]}
"""
from speechmerge.data.directory import NO_AUDIO, DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.metrics import bootstrap
from speechmerge.metrics.slots import slot_type_f1, slot_value_cer
from speechmerge.metrics.slu import MEASURES, f1, f1_of, frame_tables, totals
from speechmerge.registry import nearest
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import Example, Task
from speechmerge.tasks.frame import EXAMPLE, FORMATS, SIGNS, decode, encode, nothing


@TASKS.register("slu")
class SLU(Task):
    """Spoken language understanding, scenario, action and entities; SLU-F1 decides."""

    name = "slu"
    kind = "understanding"
    metric = "slu_f1"
    higher_is_better = True
    hears_all = True
    free_symbols = True
    max_new_tokens = 192
    prompt = "What are the scenario, the action and the entities?"
    instruction = ("Which scenario, action and entities has the spoken command? Answer in this form: " +
                   encode(EXAMPLE, "json").replace("{", "{{").replace("}", "}}"))
    configurable = (*Task.configurable, "target_format")
    formats = FORMATS
    target_format: str | None = None  # how frames are written; default: the first of `formats` that the model can write
    skip_missing = False  # True: utterances without a hypothesis are left out, as the published evaluator does

    def configure(self, **values):
        format = values.get("target_format")
        if format not in (None, *self.formats):
            raise UsageError(f"--target-format {format!r}; {nearest(format, self.formats)}")
        return super().configure(**values)

    def adapt(self, model):
        super().adapt(model)
        possible = [name for name in self.formats if model.writes(SIGNS[name])]
        if self.target_format is None and not possible:
            raise SpeechMergeError(f"{model.source}: its tokens can write frames in none of {', '.join(self.formats)}")
        if self.target_format not in (None, *possible):
            raise UsageError(f"--target-format {self.target_format}: {model.source} has no tokens for "
                             f"{SIGNS[self.target_format]}; it can write {', '.join(possible) or 'none'}")
        self.target_format = self.target_format or possible[0]
        shown = {form: encode(EXAMPLE, form).replace("{", "{{").replace("}", "}}") for form in ("json", self.target_format)}
        self.instruction = type(self).instruction.replace(shown["json"], shown[self.target_format])

    def examples(self, data: DataDir) -> list[Example]:
        found = []
        for id, utterance in sorted(data.utterances.items()):
            frame = decode(utterance.labels.get("slu") or "", "json")
            if frame is None:
                raise SpeechMergeError(f"{data.path / 'utt2slu'}:{id}: found {utterance.labels.get('slu')!r}, expected "
                                       '{"scenario":..,"action":..,"entities":[{"type":..,"filler":..}]}; prepare the '
                                       "data again")
            found.append(self.example(utterance, self.target_of(data, utterance, frame), self.prompt_of(data, utterance)))
        return found

    def target_of(self, data: DataDir, utterance, frame: dict) -> str:
        return encode(frame, "json")

    def stratum(self, example):
        frame = decode(example.target, "json")
        return f"{frame['scenario']}_{frame['action']}"

    def written(self, target):
        return encode(decode(target, "json"), self.target_format or "json")

    def frame_of(self, text: str) -> dict | None:
        return decode(text, self.target_format or "json")

    def parse(self, text: str) -> str | None:
        frame = self.frame_of(text)
        return frame and encode(frame, "json")

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        self.check_ids(refs, hyps)
        ids = self.scored_ids(refs, hyps)
        golds, read = self.frames(ids, refs, hyps)
        tables = frame_tables(golds, read)
        slots = [frame["entities"] for frame in golds], [frame["entities"] if frame else [] for frame in read]
        micro, macro = ({f"{name}_f1": f1(tables, name, macro) for name in MEASURES} for macro in (False, True))
        return {
            "value": micro["slu_f1"], "metric": self.metric, "n": len(ids), "n_missing": len(refs.keys() - hyps.keys()),
            "n_unparsed": sum(id in hyps and frame is None for id, frame in zip(ids, read)), **micro,
            "exact_match": sum(gold == frame for gold, frame in zip(golds, read)) / len(ids),
            "slot_type_f1": slot_type_f1(*slots), "slot_value_cer": slot_value_cer(*slots), "macro": macro,
        }

    def scored_ids(self, refs, hyps) -> list[str]:
        ids = sorted(refs.keys() & hyps.keys() if self.skip_missing else refs)
        if not ids:
            raise SpeechMergeError(f"{self.name}: none of the {len(refs)} references has a hypothesis")
        return ids

    def frames(self, ids, refs, hyps) -> tuple[list[dict], list[dict | None]]:
        """(gold frames, frames that were read; None for missing and unreadable ones)."""
        golds = [decode(refs[id], "json") for id in ids]
        return golds, [self.frame_of(hyps[id]) if id in hyps else None for id in ids]

    def published(self, data, refs, hyps):
        """`predictions.jsonl` as SLURP's evaluator reads it, by recording (`file`) and by prompt (`slurp_id`, --load-gold).

        The evaluator leaves out what has no line, so that every utterance has one: a frame without anything where
        nothing was read. `raw_output` is what the model wrote.
        """
        rows = [{**keys_of(data.utterances[id]), **(self.frame_of(hyps.get(id, "")) or nothing()),
                 "raw_output": hyps.get(id, "")} for id in sorted(refs)]
        return {"predictions.jsonl": rows}

    def replicates(self, refs, hyps, *, speakers=None, languages=None, scores=None, repetitions=bootstrap.REPETITIONS,
                   seed=bootstrap.SEED):
        ids = self.scored_ids(refs, hyps)
        counts, unit = self.resampled(ids, speakers, repetitions, seed)
        return f1_of(counts @ totals(frame_tables(*self.frames(ids, refs, hyps)), "slu")), unit

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None):
        tables = frame_tables(*self.frames(self.scored_ids(refs, hyps), refs, hyps))
        return {f"{name}_f1": f1_of(counts @ totals(tables, name)) for name in MEASURES if name != "slu"}


def keys_of(utterance) -> dict[str, str]:
    """What SLURP calls this utterance: ids are file names without .flac, or the prompt's where there is no audio."""
    prompt = {"slurp_id": utterance.labels["slurp_id"]} if "slurp_id" in utterance.labels else {}
    return prompt if utterance.audio == NO_AUDIO else {"file": f"{utterance.id}.flac", **prompt}
