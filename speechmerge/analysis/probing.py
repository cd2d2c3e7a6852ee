"""What a linear classifier reads off the encoder's states: classes of phones, and words; per system and layer.

Base and adapters hear the same utterances and answer for the same frames, with probes that are split, regularised and
drawn alike (the strength of the penalty is chosen on the base's states), so that their differences are paired. What the
numbers are: probing_classifier.py; the classes: probing_targets.py; where the times of phones come from:
speechmerge/alignment (`speechmerge align` writes them beside the data).
"""
from pathlib import Path

import numpy as np

from speechmerge.analysis.base import ANALYSES, Analysis, Findings, table, words_of
from speechmerge.analysis.probing_targets import PROPERTIES, WORD, class_of, segments
from speechmerge.analysis.representations import encoder_layers
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import fingerprint, sha256_file
from speechmerge.merge.parameters import Parameter
from speechmerge.registry import nearest

FEWEST = 10  # frames or words of a class, or it is not asked for


@ANALYSES.register("probing")
class Probing(Analysis):
    """Linear probes of encoder states with control tasks: manner, place, voicing ... of phones, and words."""

    parameters = (
        Parameter("sets", str, None, "words: the sets that are heard; default: one for each adapter"),
        Parameter("max_samples", int, 64, "utterances of each set, drawn once; 0: all", low=0),
        Parameter("max_frames", int, 4000, "frames in all, equally many of each utterance", low=100),
        Parameter("max_words", int, 20, "the most frequent words, that are told apart", low=2),
        Parameter("properties", str, " ".join(PROPERTIES), "words: what is asked"),
        Parameter("layers", str, None, "numbers of encoder layers, 0: the input of the first block; default: all"),
        Parameter("folds", int, 3, "parts; each is answered by probes of the others", low=2),
        Parameter("repetitions", int, 1000, "of the bootstrap", low=10),
        Parameter("seed", int, 0, "of the draws"),
    )
    uses_model = True

    def key(self) -> str:
        """Of the alignments, too."""
        from speechmerge.alignment.times import files_of

        root, split = Path(self.study.args.data), self.study.split
        sets = sorted(self.study.sets(self.values["sets"]))
        files = [path for name in sets for path in files_of(root / name / split)]
        return fingerprint([super().key(), [(path.name, sha256_file(path)) for path in files]])

    def run(self) -> Findings:
        from speechmerge.decode import weights_of
        from speechmerge.systems import BASE, System

        study, names = self.study, self.properties()
        sounds = self.sounds()
        layers = encoder_layers(study.model, self.values["layers"])
        samples, step = self.samples(sounds, layers[0])
        panel = Panel(names, samples, self.values)
        for name, system in [(BASE, System(BASE, "base")), *zip(study.names, study.systems)]:
            with weights_of(study.model, system):
                panel.hear(name, self.states(sounds, samples, layers))
        data = {"split": study.split, "systems": [BASE, *study.names], "layers": layers, "utterances": len(samples),
                "frames": len(panel.phones), "step_ms": round(1000 * step, 3),
                "alignment": {one.name: one.source for one in sounds},
                "kept_together": panel.units, "resampled": panel.resampled, "properties": panel.results,
                "unknown_phones": panel.unknown, "not_asked": sorted(set(names) - set(panel.results))}
        return Findings(data, pictures(data), lines(data))

    def properties(self) -> list[str]:
        words = list(dict.fromkeys(words_of(self.values["properties"])))
        if unknown := [word for word in words if word not in PROPERTIES]:
            raise UsageError(f"options.properties: unknown property {unknown[0]!r}; {nearest(unknown[0], PROPERTIES)}")
        return words

    def sounds(self) -> list:
        """Of the sets whose examples are single utterances; pairs and trials have no phones of one time."""
        found = {name: self.sound(name, task) for name, task in self.study.sets(self.values["sets"]).items()}
        if not any(found.values()):
            raise SpeechMergeError(f"{self.study.args.data}: no set of {', '.join(found)} has examples of one "
                                   "utterance, whose phones have times; choose others by --options sets")
        return [sound for sound in found.values() if sound]

    def sound(self, name: str, task):
        from speechmerge.alignment.data import times_of_data
        from speechmerge.analysis.probing_states import Sound
        from speechmerge.data.batching import FeatureCache
        from speechmerge.data.directory import DataDir

        study, model = self.study, self.study.model
        root, split = study.data(name, task, self.values["max_samples"], self.values["seed"])
        task.adapt(model)
        whole = DataDir.read(Path(study.args.data) / name / study.split)
        examples = [one for one in task.examples(DataDir.read(root / name / split)) if one.id in whole.utterances]
        if not examples:
            return None
        times, source = times_of_data(whole, [one.id for one in examples])
        examples = [one for one in examples if one.id in times and model.seconds(one) <= model.full_seconds]
        speakers = {id: utterance.speaker for id, utterance in whole.utterances.items()}
        return Sound(name, task, examples, FeatureCache(), times, source, speakers)

    def samples(self, sounds, layer: int) -> tuple[dict, float]:
        """({(set, utterance): Sample}, seconds between positions)"""
        from speechmerge.analysis.probing_states import position_seconds, sample_of

        model, values = self.study.model, self.values
        count = sum(len(sound.examples) for sound in sounds)
        if count < values["folds"]:
            raise SpeechMergeError(f"{self.study.args.data}: {count} utterances of {self.study.split} with times of "
                                   f"phones; expected at least {values['folds']}, one for each of the folds")
        step, most = position_seconds(model, sounds, layer), max(1, values["max_frames"] // count)
        seed = values["seed"]
        return {(sound.name, one.id): sample_of(one, sound, model.family, model.seconds(one), step, most, seed)
                for sound in sounds for one in sound.examples}, step

    def states(self, sounds, samples, layers) -> dict:
        from speechmerge.analysis.probing_states import harvest

        return harvest(self.study.model, sounds, samples, layers)


class Panel:
    """The questions, and what each system's states answer: `results[property]["systems"][system][layer]`."""

    def __init__(self, names: list[str], samples: dict, values: dict):
        from speechmerge.analysis.probing_classifier import Judgement, make_folds

        self.values, kept = values, list(samples.values())
        speakers = [sample.speaker for sample in kept]
        self.folds, self.units = make_folds(speakers, [sample.name for sample in kept], values["folds"], values["seed"])
        self.phones = [phone for sample in kept for phone in sample.phones]
        self.words = [word for sample in kept for _, _, word in sample.words]
        self.of_phones = np.repeat(np.arange(len(kept)), [len(sample.phones) for sample in kept])
        self.of_words = np.repeat(np.arange(len(kept)), [len(sample.words) for sample in kept])
        self.unknown = sorted({phone for phone in self.phones if not segments(phone)})
        self.asked = {name: found for name in names if (found := self.question(name))}
        if not self.asked:
            odd = f" (no IPA: {' '.join(self.unknown[:8])})" if self.unknown else ""
            raise SpeechMergeError(f"probing: none of {', '.join(names)} has two classes of {FEWEST} frames or words "
                                   f"in {len(kept)} utterances{odd}; give more with --options max_samples, max_frames")
        self.judges = {name: Judgement(question, speakers, values["repetitions"], values["seed"])
                       for name, (question, _) in self.asked.items()}
        self.resampled = next(iter(self.judges.values())).unit
        self.results = {name: about(question) for name, (question, _) in self.asked.items()}
        self.chosen, self.base = {}, {}

    def question(self, name: str):
        """(Question, the rows that it is about); None where less than two classes have FEWEST rows in several folds."""
        from speechmerge.analysis.probing_classifier import Question

        texts, utterances = (self.words, self.of_words) if name == WORD else (self.phones, self.of_phones)
        found = [text if name == WORD else class_of(text, name) for text in texts]
        kept = {own: [place for place, other in enumerate(found) if other == own]
                for own in sorted({*found} - {None, ""})}
        kept = {own: rows for own, rows in kept.items()
                if len(rows) >= FEWEST and len(set(self.folds[utterances[rows]])) == self.values["folds"]}
        if name == WORD:
            frequent = sorted(kept, key=lambda own: (-len(kept[own]), own))[: self.values["max_words"]]
            kept = {own: kept[own] for own in sorted(frequent)}
        if len(kept) < 2:
            return None
        rows = np.sort(np.concatenate(list(kept.values())))
        place = {own: number for number, own in enumerate(kept)}
        labels = np.array([place[found[row]] for row in rows])
        types = None if name == WORD else np.array([texts[row] for row in rows])
        return Question(name, list(kept), labels, types, utterances[rows], self.folds[utterances[rows]]), rows

    def hear(self, system: str, states: dict):
        """states: layer -> (of frames, of words). The first system is the base, which the others are compared with."""
        from speechmerge.analysis.probing_classifier import answers, strengths

        for name, (question, rows) in self.asked.items():
            entries = self.results[name]["systems"][system] = {}
            for layer, parts in states.items():
                own, place = parts[name == WORD][rows], (name, layer)
                if place not in self.chosen:
                    self.chosen[place] = strengths(question, own)
                found = answers(question, own, self.chosen[place], self.values["seed"])
                entries[str(layer)], replicates = self.judges[name].cell(found, self.base.get(place))
                self.base.setdefault(place, replicates)


def about(question) -> dict:
    counts = np.bincount(question.labels, minlength=len(question.classes))
    return {"classes": dict(zip(question.classes, counts.tolist())), "rows": len(question.labels),
            "types": None if question.types is None else len(np.unique(question.types)), "systems": {},
            "chance": round(1 / len(question.classes), 5), "majority": round(float(counts.max() / counts.sum()), 5)}


def best_layer(entry: dict) -> str:
    """Where the base's accuracy is highest."""
    base = next(iter(entry["systems"].values()))
    return max(base, key=lambda layer: base[layer]["accuracy"])


def pictures(data: dict) -> list:
    from speechmerge.analysis.charts import grouped_bars, heat_map

    layers, systems, asked, found = list(map(str, data["layers"])), data["systems"], data["properties"], []
    for name, entry in asked.items():
        for what, title, limit in (("accuracy", "balanced accuracy", 1.0), ("selectivity", "selectivity", None)):
            values = [[entry["systems"][system][layer][what] for layer in layers] for system in systems]
            found.append(heat_map(f"{what}_{name}", f"Probes of {name}: {title} by encoder layer", systems, layers,
                                  values, limit=limit, note=f"chance {entry['chance']:.2f}" if limit else ""))
    bars = {system: [entry["systems"][system][best_layer(entry)]["selectivity"] for entry in asked.values()]
            for system in systems}
    found.append(grouped_bars("selectivity", "Selectivity where the base's probe is best", list(asked), bars,
                              "accuracy - control"))
    if len(systems) > 1:
        last = layers[-1]
        changes = [[entry["systems"][own][last]["change"] for entry in asked.values()] for own in systems[1:]]
        found.append(heat_map("change", f"Accuracy, adapter - base, layer {last}", systems[1:], list(asked), changes))
    return found


def lines(data: dict) -> list[str]:
    """Of each property the layer where the base is best; * where the 95 % interval of the difference leaves out 0."""
    rows = []
    for name, entry in data["properties"].items():
        layer = best_layer(entry)
        base, *others = [entry["systems"][system][layer] for system in data["systems"]]
        rows.append([name, len(entry["classes"]), layer, entry["chance"], base["accuracy"], base["control"],
                     base["selectivity"], *(f"{other['change']:+.3f}{star(other['change_ci'])}" for other in others)])
    sources = ", ".join(f"{name} {source}" for name, source in data["alignment"].items())
    head = ["property", "classes", "layer", "chance", "base", "control", "selective", *data["systems"][1:]]
    return [f"balanced accuracy of linear probes, {data['utterances']} utterances, {data['frames']} frames (times: "
            f"{sources}); adapters: difference to the base", *table(head, rows)]


def star(ci: list[float]) -> str:
    return "*" if ci[0] > 0 or ci[1] < 0 else ""
