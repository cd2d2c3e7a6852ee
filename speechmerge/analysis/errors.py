"""What kinds of errors are made, and which of them a merge adds or removes: of hypotheses that are there already.

Every error of the WER falls into exactly one class (speechmerge.metrics.error_types says which first), so that the classes
add up to the score. Words are aligned and normalised as `speechmerge score` did. Systems are compared with the set's own
adapter, place by place in the references. Needs `speechmerge decode`; no model.
"""
import functools
import hashlib
import itertools
import random
from pathlib import Path

from speechmerge.analysis.base import ANALYSES, Analysis, Findings, number, words_of
from speechmerge.errors import SpeechMergeError
from speechmerge.files import fingerprint, read_json
from speechmerge.merge.parameters import Parameter
from speechmerge.metrics import bootstrap, error_types
from speechmerge.metrics.error_types import CLASSES

NORMALISERS = ("none", "basic", "english", "indic")
KINDS = {"base": "base", "adapters": "adapter", "merged": "merged", "routed": "routed"}
PAIRS = 1000  # of random words, for the chance of sounding alike
VOICES = {"zh": "cmn", "no": "nb"}  # what espeak-ng calls them


@ANALYSES.register("errors")
class Errors(Analysis):
    """Classes of word errors of every decoded system, against each set's own adapter, with examples and confusions."""

    parameters = (
        Parameter("systems", str, None, "words: names, or base, adapters, merged, routed; default: all that were decoded"),
        Parameter("sets", str, None, "words; default: all decoded sets that are judged by WER"),
        Parameter("normaliser", NORMALISERS, None, "of words; default: as the split was scored, else basic"),
        Parameter("threshold", float, error_types.THRESHOLD, "phones apart, per phone, up to which a word sounds alike",
                  low=0, high=1),
        Parameter("burst", int, error_types.BURST, "inserted words in a row that are a hallucination", low=1),
        Parameter("tail", int, error_types.TAIL, "deleted words at the end that are a truncation", low=1),
        Parameter("words_per_second", float, error_types.FASTEST, "beyond which nobody speaks", low=0.1),
        Parameter("train_split", str, "train", "whose transcripts say which words are known"),
        Parameter("examples", int, 2, "utterances of each class and set", low=0),
        Parameter("pairs", int, 20, "most frequent confusions of each set that are listed", low=0),
        Parameter("repetitions", int, bootstrap.REPETITIONS, "of the bootstrap", low=1),
        Parameter("seed", int, bootstrap.SEED, "of the bootstrap, and of the random words", low=0),
    )

    def key(self) -> str:
        hypotheses = [(system, name, item.record["key"], read_hyp(item)) for (system, name), item in self.table.items()]
        texts = [(name, [(u.id, u.text, u.language, u.duration, u.speaker) for u in data.utterances.values()])
                 for name, data in [*self.trained.items(), *((s.name, s.data) for s in self.sets.values())]]
        return fingerprint([self.normaliser, hypotheses, texts])

    @functools.cached_property
    def normaliser(self) -> str:
        scores = self.study.exp_dir / f"scores_{self.study.split}.json"
        scored = read_json(scores)["normaliser"] if scores.is_file() else "basic"
        return self.values["normaliser"] or scored

    @functools.cached_property
    def table(self) -> dict:
        """(system, set) -> scoring.Decoded of everything that is judged by WER."""
        from speechmerge.scoring import Decoded, decoded_folders
        from speechmerge.tasks import get_task

        study, found = self.study, {}
        for folder in decoded_folders(study.exp_dir, study.split):
            record = read_json(folder / "decode.json")
            if get_task(record["task"]).metric == "wer" and (folder / "hyp").is_file():
                found[folder.parent.name, folder.name] = Decoded(folder, record)
        if not found:
            raise SpeechMergeError(f"{study.exp_dir / 'decode' / study.split}: no transcripts, nothing that is judged by "
                                   f"WER; run `speechmerge decode --task asr --split {study.split}`")
        return found

    @functools.cached_property
    def sets(self) -> dict[str, "Set"]:
        chosen = words_of(self.values["sets"]) or sorted({name for _, name in self.table})
        return {name: self.references(name) for name in chosen}

    def references(self, name: str) -> "Set":
        from speechmerge.scoring import ReferenceCache

        item = next((item for (_, s), item in self.table.items() if s == name), None)
        if item is None:
            raise self.missing("all", name)
        path = Path(self.study.args.data) / name / self.study.split
        found = ReferenceCache(self.normaliser).get(item.record["task"], str(path), item.record.get("settings"))
        return Set(name, found)

    def missing(self, system: str, set_name: str) -> SpeechMergeError:
        study = self.study
        return SpeechMergeError(f"{study.exp_dir / 'decode' / study.split / system / set_name}: no transcripts of {system} on "
                                f"{set_name}; run `speechmerge decode --systems {system} --tasks {set_name} --task asr "
                                f"--split {study.split} --data {study.args.data} --exp-dir {study.exp_dir}`")

    def systems(self, set_name: str) -> list[str]:
        """What is looked at, base, adapters, merges, then routed; SpeechMergeError where a named one was not decoded."""
        from speechmerge.scoring import system_order

        there = system_order([item for (_, s), item in self.table.items() if s == set_name])
        wanted = words_of(self.values["systems"])
        for name in wanted:
            if name not in KINDS and name not in there:
                raise self.missing(name, set_name)
        kinds = {KINDS.get(name) for name in wanted}
        return [name for name in there if not wanted or name in wanted
                or self.table[name, set_name].system["kind"] in kinds]

    @functools.cached_property
    def trained(self) -> dict:
        """Set -> DataDir of its training split, where there is one."""
        from speechmerge.data.directory import DataDir

        root, split = Path(self.study.args.data), self.values["train_split"]
        folders = {name: root / name / split for _, name in sorted(self.table)}
        return {name: DataDir.read(folder, check=False) for name, folder in folders.items()
                if (folder / "wav.scp").is_file()}

    def run(self) -> Findings:
        from speechmerge.analysis.error_pictures import lines, pictures

        lexicons = self.lexicons()
        vocabulary = {}
        for each in self.sets.values():
            for id, language in zip(each.ids, each.languages):
                vocabulary.setdefault(language, set()).update(self.normalised(each.references.targets[id], language))
        values, sounds = self.values, Pronouncer()
        typology = error_types.Typology(lexicons, sounds, vocabulary, values["threshold"], values["burst"], values["tail"],
                                        values["words_per_second"])
        data = {"split": self.study.split, "normaliser": self.normaliser, "threshold": values["threshold"],
                "classes": list(CLASSES), "sets": {}}
        examples = []
        for name, each in self.sets.items():
            judged = Judged(each, self.systems(name), self.table, typology, values)
            data["sets"][name] = judged.about()
            examples.append(judged.examples())
        data["examples"] = mixed(examples)
        return Findings(data, pictures(data), lines(data))

    def lexicons(self) -> dict[str, set[str]]:
        """Language -> words of the training transcripts of all decoded sets."""
        found = {}
        for name, data in self.trained.items():
            for utterance in data.utterances.values():
                language = utterance.language or name
                found.setdefault(language, set()).update(self.normalised(utterance.text or "", language))
        return found

    def normalised(self, text: str, language: str) -> list[str]:
        from speechmerge.metrics.wer import normaliser_by_name

        return normaliser_by_name(self.normaliser, language)(text).split()


class Set:
    """References of one set: utterances in sorted order, with their languages (the set's name where none is given)."""

    def __init__(self, name: str, references):
        self.name, self.references, self.data = name, references, references.data
        self.ids = sorted(references.targets)
        self.languages = [references.languages.get(id) or name for id in self.ids]
        self.seconds = [self.data.utterances[id].duration for id in self.ids]

    def rates(self, hypotheses: dict):
        """metrics.wer.ErrorRates as the score has them."""
        task, references = self.references.task, self.references
        task.check_ids(references.targets, hypotheses)
        return task.rates(self.ids, references.targets, hypotheses, references.languages)


class Judged:
    """The errors of all systems on one set."""

    def __init__(self, each: Set, systems, table: dict, typology, values: dict):
        self.set, self.systems, self.table, self.typology, self.values = each, systems, table, typology, values
        self.rates, self.errors = {}, {}
        for name in systems:
            self.add(name)
        self.own = {name: own for name in systems if (own := self.own_adapter(name)) and own != name}
        references = each.references
        self.resampled, self.unit = references.task.resampled(each.ids, references.speakers, values["repetitions"],
                                                              values["seed"])

    def add(self, name: str):
        try:
            self.rates[name] = self.set.rates(dict(read_hyp(self.table[name, self.set.name])))
        except SpeechMergeError as error:
            raise SpeechMergeError(f"{self.table[name, self.set.name].folder / 'hyp'}: {error}") from error
        self.errors[name] = self.typology.errors(self.rates[name], self.set.languages, self.set.seconds)

    def own_adapter(self, name: str) -> str | None:
        """The adapter that a system is compared with on this set, as interference_delta has it; judged, too."""
        from speechmerge.scoring import merged_adapters, single_adapter

        item = self.table[name, self.set.name]
        entry = {**item.system, "adapters": merged_adapters(item.system)}
        single = single_adapter(entry, item, self.table)
        if single and single.folder.parent.name not in self.errors:
            self.add(single.folder.parent.name)
        return single and single.folder.parent.name

    def about(self) -> dict:
        rates = next(iter(self.rates.values()))
        sounds, lexicons = self.typology.sounds, self.typology.lexicons
        languages = sorted(set(self.set.languages))
        silent, unknown = ([language for language in languages if not there(language)]
                           for there in (sounds.knows, lexicons.get))
        undefined = {*(("spelling", "phonetic") if silent == languages else ()),
                     *(("oov",) if unknown == languages else ()), *(() if silent else ("unjudged",))}
        notes = [f"espeak-ng has no voice for {each}: whether its words sound alike is not judged" for each in silent]
        notes += [f"no transcripts to train on in {each}: no word of it counts as out of vocabulary" for each in unknown]
        confused = {"words": self.confused(error_types.word_pairs), "phones": self.confused(error_types.phone_pairs)}
        chance = {language: self.chance(language) for language in languages if language not in silent + unknown}
        return {"utterances": len(self.set.ids), "words": int(rates.words.sum()), "languages": languages, "notes": notes,
                "lexicon": {language: len(lexicons.get(language, ())) for language in languages}, "sound_alike": chance,
                "confused": confused, "ci_unit": self.unit, "systems": {name: self.system(name, undefined) for name in self.systems},
                "changes": {name: self.change(name, own, undefined) for name, own in self.own.items()}}

    def chance(self, language: str) -> float | None:
        """Share of random pairs of the language's known words that the threshold takes for alike."""
        lexicon = sorted(self.typology.lexicons[language])
        if len(lexicon) < 2:
            return None
        draw = random.Random(self.values["seed"])
        pairs = [draw.sample(lexicon, 2) for _ in range(PAIRS)]
        near = [self.typology.compared(*pair, language)[0] for pair in pairs]
        return number(sum(value is not None and value <= self.values["threshold"] for value in near) / PAIRS)

    def system(self, name: str, undefined: set) -> dict:
        rates, errors = self.rates[name], self.errors[name]
        counts = error_types.class_counts(errors)
        wild = [next((e.reason for e in found if e.kind == "hallucination"), None) for found in errors]
        return {"kind": self.table[name, self.set.name].system["kind"], "wer": rates.wer,
                **self.per_class(counts, undefined), "known_words": self.known_words(name),
                "hallucinated_utterances": {reason: wild.count(reason) for reason in sorted({*wild} - {None})},
                "empty_hypotheses": sum(not text for text in rates.hypotheses)}

    def confused(self, pairs_of) -> list[list]:
        """[[said, written, {system: how often}]] of the pairs that are most frequent over all systems."""
        found = {}
        for name in self.systems:
            for pair, count in pairs_of(self.errors[name]).items():
                found.setdefault(pair, dict.fromkeys(self.systems, 0))[name] = count
        ordered = sorted(found, key=lambda pair: (-sum(found[pair].values()), pair))
        return [[*pair, found[pair]] for pair in ordered[:self.values["pairs"]]]

    def per_class(self, counts, undefined: set) -> dict:
        """Class -> counts, errors per 100 reference words and their 95 % interval; None where the class is not defined."""
        words_said = next(iter(self.rates.values())).words
        found = {"counts": {}, "per_100": {}, "ci": {}}
        for kind, column in zip(CLASSES, counts.T):
            total = None if kind in undefined else int(column.sum())
            found["counts"][kind], found["per_100"][kind], found["ci"][kind] = total, None, None
            if total is not None:
                replicates = bootstrap.ratio_replicates(100 * column, words_said, self.resampled)
                found["per_100"][kind] = number(100 * total / words_said.sum())
                found["ci"][kind] = [number(end) for end in bootstrap.interval(replicates)]
        return found

    def known_words(self, name: str) -> dict:
        """Of reference words that the training transcripts have and of those that they do not: how many, share wrong."""
        found = {"known": [0, 0], "unknown": [0, 0]}
        for text, language, errors in zip(self.rates[name].references, self.set.languages, self.errors[name]):
            wrong = {error.place for error in errors}
            for i, word in enumerate(text.split()):
                if lexicon := self.typology.lexicons.get(language):
                    row = found["known" if word in lexicon else "unknown"]
                    row[0], row[1] = row[0] + 1, row[1] + (("word", i) in wrong)
        return {key: {"words": count, "wrong": number(wrong / count) if count else None}
                for key, (count, wrong) in found.items()}

    def change(self, name: str, own: str, undefined: set) -> dict:
        """What this system adds and removes against the set's own adapter, by class; `net` per 100 reference words."""
        added, removed = error_types.changes(self.errors[own], self.errors[name])
        counts = [error_types.class_counts(self.errors[each]) for each in (name, own)]
        net = self.per_class(counts[0] - counts[1], undefined)
        return {"against": own, "added": dict(zip(CLASSES, added.sum(0).tolist())),
                "removed": dict(zip(CLASSES, removed.sum(0).tolist())), "net": net["per_100"], "ci": net["ci"]}

    def examples(self) -> list[dict]:
        """A few utterances of each class: the systems take turns, utterances in the order of a hash of their id, so that
        nobody picks by taste."""
        order = sorted(range(len(self.set.ids)), key=lambda i: hashlib.sha256(self.set.ids[i].encode()).hexdigest())
        rounds = [[] for _ in range(self.values["examples"])]
        for kind in CLASSES:
            shown = set()
            for name in [*reversed(self.systems)] * len(rounds):
                left = (i for i in order if i not in shown and any(e.kind == kind for e in self.errors[name][i]))
                if len(shown) < len(rounds) and (i := next(left, None)) is not None:
                    rounds[len(shown)].append(self.example(name, i, kind))
                    shown.add(i)
        return [row for rows in rounds for row in rows]

    def example(self, name: str, i: int, kind: str) -> dict:
        rates, own, id = self.rates[name], self.own.get(name), self.set.ids[i]
        errors = [error for error in self.errors[name][i] if error.kind == kind]
        before = {error.place for error in self.errors[own][i]} if own else set()
        new = sum(error.place not in before for error in errors)
        return {"set": self.set.name, "utt": id, "system": name, "kind": kind, "reference": rates.references[i],
                "hypothesis": rates.hypotheses[i], "audio": audio_of(self.set.data.utterances[id]),
                "errors": ", ".join(f"{e.reference or '-'} > {e.hypothesis or '-'}" for e in errors[:6]),
                "reason": ", ".join(sorted({e.reason for e in errors if e.reason})),
                "own adapter": f"{new} of {len(errors)} not made by {own}" if own else ""}


class Pronouncer:
    """Words as espeak-ng says them in a language: tuple of phones; None where it has no voice for it."""

    def __init__(self):
        from speechmerge.tasks.phones import Phonemizer

        self.speak = Phonemizer()
        self.spoken = functools.lru_cache(maxsize=None)(lambda word, voice: tuple(self.speak(word, voice).split()))
        self.knows = functools.lru_cache(maxsize=None)(self._knows)

    def _knows(self, language: str) -> bool:
        try:
            self.speak("a", VOICES.get(language, language))
        except SpeechMergeError:
            return False
        return True

    def __call__(self, word: str, language: str) -> tuple | None:
        return self.spoken(word, VOICES.get(language, language)) if self.knows(language) else None


def mixed(lists: list[list]) -> list:
    """One of each list after the other; each begins elsewhere, so that the first few are of all sets and classes."""
    turned = [rows[place * len(rows) // len(lists):] + rows[:place * len(rows) // len(lists)]
              for place, rows in enumerate(lists)]
    return [row for rows in itertools.zip_longest(*turned) for row in rows if row is not None]


def read_hyp(item) -> list[tuple[str, str]]:
    from speechmerge.scoring import read_hypotheses

    return sorted(read_hypotheses(item.folder / "hyp").items())


def audio_of(utterance) -> str | None:
    """The path of its own audio file; None of stretches and of transcripts alone."""
    try:
        return utterance.own_file()
    except SpeechMergeError:
        return None
