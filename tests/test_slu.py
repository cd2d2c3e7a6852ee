"""Frames as text, SLU scores against the published evaluator's rules written down again, plain files of SLURP."""
import json
import random
import string
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_text
from speechmerge.metrics.slots import slot_type_f1, slot_value_cer
from speechmerge.metrics.slu import character_distance, f1, f1_of, frame_tables, totals, word_distance
from speechmerge.plain_files import slurp_gold, slurp_predictions
from speechmerge.tasks import get_task
from speechmerge.tasks.frame import FORMATS, decode, encode
from tiny import tiny_tones

ROOT = Path(__file__).resolve().parent.parent
FRAME = {"scenario": "alarm", "action": "query", "entities": [{"type": "event_name", "filler": "dance class"}]}


def entity(type_, filler):
    return {"type": type_, "filler": filler}


def frame(scenario="a", action="b", *entities):
    return {"scenario": scenario, "action": action, "entities": [entity(*pair) for pair in entities]}


# --- frames as text

@pytest.mark.parametrize("format, text", [
    ("json", '{"scenario":"alarm","action":"query","entities":[{"type":"event_name","filler":"dance class"}]}'),
    ("compact", '{"scenario":"alarm","action":"query","entities":[{"event_name":"dance class"}]}'),
    ("linear", "alarm query | event_name : dance class"), ("plain", "alarm query '' event'name ' dance class")])
def test_forms(format, text):
    assert encode(FRAME, format) == text and decode(text, format) == FRAME


@pytest.mark.parametrize("format", FORMATS)
def test_every_frame_is_read_back(format):
    rng = random.Random(0)
    words = ["jessica", "'s", "'", "''", "'''", "|", "||", ":", "::", "|:", "a|b", "3:15", "p.m.", "ü", '"', "{", "_"]
    names = ["alarm", "volume_up", "event_name", "a", "a_b_c", "x_"]
    for _ in range(500):
        pairs = [(rng.choice(names), " ".join(rng.choices(words, k=rng.randrange(4)))) for _ in range(rng.randrange(4))]
        made = frame(rng.choice(names), rng.choice(names), *pairs)
        assert decode(encode(made, format), format) == made


@pytest.mark.parametrize("text", ["", "alarm query", "[]", "3", '{"scenario":"a"', '{"scenario":1}', '{"entities":{}}',
                                  '{"entities":["x"]}', '{"entities":[{"type":"x"}]}', '{"scenario":null}',
                                  "[" * 100_000])
def test_what_is_no_json_frame(text):
    assert decode(text, "json") is None


def test_json_is_read_leniently():
    assert decode(' { "entities" : [ {"filler": " dance  class", "type": "event_name", "x": 1} ],'
                  '"action":"query", "scenario":"alarm"} ', "json") == FRAME
    assert decode('{"scenario":"a","action":"b"}', "json") == frame("a", "b")
    assert decode("{}", "json") == frame("", "")


@pytest.mark.parametrize("format", ["json", "compact"])
def test_json_of_either_form_is_found_in_other_text(format):
    """As language models write it: fenced, introduced, explained; the paper's entities or the evaluator's."""
    for entities in ('[{"event_name": "dance class"}]', '[{"type": "event_name", "filler": "dance class"}]'):
        text = f'{{"scenario": "alarm", "action": "query", "entities": {entities}}}'
        for around in ("%s", "```json %s ```", "Sure {here}: %s. {\"note\": 1}", "%s %s"):
            assert decode(around.replace("%s", text), format) == FRAME
    assert decode('{"scenario":"a","action":"b","entities":[{"x":"1","y":"2"}]}', format) == \
        frame("a", "b", ("x", "1"), ("y", "2"))
    cut = '{"scenario":"a","action":"b","entities":[{"type":"x","filler":"y"},{"ty'
    for text in (cut, f"so: {cut}", 'so {"time":"ten"}', '{"scenario":"a","entities":[{"time":8}]}', '{"a":' * 3000):
        assert decode(text, format) is None


def test_entity_types_that_are_keys_cannot_be_compact():
    with pytest.raises(SpeechMergeError, match="'type' cannot be told from a key; use --target-format json"):
        encode(frame("a", "b", ("type", "x")), "compact")


@pytest.mark.parametrize("text", ["", "alarm", "alarm query more", "a b | x", "a b | x y", "a b | : y",
                                  "a b | x : y : z", "| x : y"])
def test_what_is_no_linear_frame(text):
    assert decode(text, "linear") is None


def test_names_that_cannot_be_written():
    for name in ("two words", "", "it's", "_"):
        with pytest.raises(SpeechMergeError, match="--target-format json"):
            encode(frame(name, "b"), "plain")


# --- the published rules, independently

def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def official(pairs, average="micro"):
    """Scores of [(gold, prediction)] as the facts state the rules: counters over labels, one pass per metric."""
    names = ("scenario", "action", "intent", "span", "word", "char")
    counters = {name: (Counter(), Counter(), Counter()) for name in names}

    def single(name, gold, predicted):
        tp, fp, fn = counters[name]
        if gold == predicted:
            tp[gold] += 1
        else:
            fp[predicted] += 1
            fn[gold] += 1

    def distances(name, golds, predictions, distance):
        tp, fp, fn = counters[name]
        remaining = [dict(g) for g in golds]
        for p in predictions:
            best, at = None, None
            for i, g in enumerate(remaining):
                if g["type"] == p["type"]:
                    d = distance(g["filler"], p["filler"])
                    if best is None or d < best:
                        best, at = d, i
            if at is None:
                fp[p["type"]] += 1
                continue
            tp[p["type"]] += 1
            fp[p["type"]] += best
            fn[p["type"]] += best
            del remaining[at]
        for g in remaining:
            fn[g["type"]] += 1

    for gold, predicted in pairs:
        for name in ("scenario", "action"):
            single(name, gold[name], predicted[name])
        single("intent", *(f"{x['scenario']}_{x['action']}" for x in (gold, predicted)))
        tp, fp, fn = counters["span"]
        left = [(g["type"], g["filler"]) for g in gold["entities"]]
        for p in predicted["entities"]:
            if (p["type"], p["filler"]) in left:
                left.remove((p["type"], p["filler"]))
                tp[p["type"]] += 1
            else:
                fp[p["type"]] += 1
        for type_, _ in left:
            fn[type_] += 1
        distances("word", gold["entities"], predicted["entities"],
                  lambda g, p: levenshtein(g.split(), p.split()) / len(g.split()))
        distances("char", gold["entities"], predicted["entities"], lambda g, p: levenshtein(g, p) / max(len(g), len(p)))
    counters["slu"] = tuple(counters["word"][i] + counters["char"][i] for i in range(3))

    def score(tp, fp, fn):
        precision = tp / (tp + fp) if tp + fp else 0
        recall = tp / (tp + fn) if tp + fn else 0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0

    result = {}
    for name, (tp, fp, fn) in counters.items():
        if average == "micro":
            result[name] = score(*(sum(counter.values()) for counter in (tp, fp, fn)))
        else:
            labels = set(tp) | set(fp) | set(fn)
            result[name] = sum(score(tp[x], fp[x], fn[x]) for x in labels) / len(labels) if labels else 0
    return result


def random_pairs(seed, n=60):
    rng = random.Random(seed)
    words, types = ["one", "two", "three", "too", "on"], ["date", "time", "person"]

    def some():
        fillers = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 4))]
        return [entity(rng.choice(types), filler) for filler in fillers]

    pairs = []
    for _ in range(n):
        gold = {"scenario": rng.choice("ab"), "action": rng.choice("xyz"), "entities": some()}
        guess = {"scenario": rng.choice("ab"), "action": rng.choice("xyz"), "entities": some()}
        pairs.append((gold, guess if rng.random() < 0.7 else {**gold, "entities": gold["entities"][::-1]}))
    return pairs


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_scores_are_those_of_the_published_rules(seed, average):
    pairs = random_pairs(seed)
    tables, expected = frame_tables(*map(list, zip(*pairs))), official(pairs, average)
    names = {"entity": "span"}
    for measure in ("scenario", "action", "intent", "entity", "word", "char", "slu"):
        right = expected[names.get(measure, measure)]
        assert f1(tables, measure, average == "macro") == pytest.approx(right, abs=1e-12), measure


def test_slu_f1_by_hand():
    """word: one pair at distance 1/2, one false alarm; char: distance 6/11."""
    gold, guess = frame("a", "b", ("event", "dance class")), frame("a", "b", ("event", "dance"), ("date", "today"))
    table = frame_tables([gold], [guess])
    assert totals(table, "word").tolist() == [[1, 1.5, 0.5]]
    assert totals(table, "char")[0] == pytest.approx([1, 1 + 6 / 11, 6 / 11])
    assert f1(table, "slu") == pytest.approx(2 * 2 / (2 * 2 + 2.5 + 6 / 11 + 0.5 + 6 / 11))
    assert f1(table, "slu") != pytest.approx((f1(table, "word") + f1(table, "char")) / 2, abs=1e-6)


def test_published_totals():
    """The totals that the evaluator gives for the authors' multi_slurp_hermit predictions."""
    assert float(f1_of([17512, 6110.3356, 8310.3356])) == pytest.approx(0.70835, abs=5e-6)


def test_distances():
    assert word_distance("one two", "three four five") == 1.5  # may exceed 1
    assert character_distance("abc", "abcd") == 0.25 and word_distance("a", "") == 1


def test_equal_distances_take_the_first():
    gold = frame("a", "b", ("date", "one x"), ("date", "one y"))
    table = frame_tables([gold], [frame("a", "b", ("date", "one z"), ("date", "one x"))])
    assert totals(table, "word").tolist() == [[2, 1, 1]]  # "one z" has taken "one x", which "one x" then lacks


def test_missing_predictions_are_errors():
    gold = frame("a", "b", ("date", "today"))
    tables = frame_tables([gold, gold], [gold, None])
    found = [f1(tables, measure) for measure in ("scenario", "intent", "entity", "slu")]
    assert found == pytest.approx([1 / 2, 1 / 2, 2 / 3, 2 / 3])
    assert f1(tables, "scenario", macro=True) == pytest.approx(2 / 3)  # "missing" is no label


# --- SUPERB's slots

def superb_slots(golds, guesses):
    """Straight from the definition: sets of types, best value of the same slot."""
    scores, edits, length = [], 0, 0
    for gold, guess in zip(golds, guesses):
        right, given = defaultdict(list), defaultdict(list)
        for target, slots in ((right, gold), (given, guess)):
            for slot in slots:
                target[slot["type"]].append(slot["filler"])
        if not right and not given:
            scores.append(1.0)
        elif not right or not given:
            scores.append(0.0)
        else:
            recall = sum(t in given for t in right) / len(right)
            precision = sum(t in right for t in given) / len(given)
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        for type_, values in right.items():
            for value in values:
                rivals = given.get(type_, [""])
                best = min(rivals, key=lambda other: levenshtein(value, other) / len(value))
                edits, length = edits + levenshtein(value, best), length + len(value)
    return sum(scores) / len(scores), edits / length


@pytest.mark.parametrize("seed", range(4))
def test_slots(seed):
    golds, guesses = zip(*[(gold["entities"], guess["entities"]) for gold, guess in random_pairs(seed)])
    found = slot_type_f1(golds, guesses), slot_value_cer(golds, guesses)
    assert found == pytest.approx(superb_slots(golds, guesses))
    assert slot_type_f1([[]], [[]]) == 1 and slot_value_cer([[]], [[entity("a", "b")]]) is None


# --- the task

@pytest.fixture
def data(tmp_path):
    folder = tiny_tones(tmp_path / "slu", task="asr", n=6)
    ids = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
    frames = [frame("alarm", "query", ("event_name", f"class {i}")) if i % 2 else frame("music", "play_it")
              for i in range(6)]
    write_text(folder / "utt2slu", "".join(f"{id} {encode(f, 'json')}\n" for id, f in zip(ids, frames)))
    return folder


def test_task(data):
    task = get_task("slu")
    examples = task.examples(DataDir.read(data))
    refs = {e.id: e.target for e in examples}
    assert task.labels(DataDir.read(data)) is None and examples[0].prompt == task.prompt
    assert {task.stratum(e) for e in examples} == {"alarm_query", "music_play_it"}
    perfect = task.score(refs, refs)
    assert perfect["value"] == perfect["slu_f1"] == perfect["exact_match"] == perfect["macro"]["intent_f1"] == 1
    first, *others = sorted(refs)
    found = task.score(refs, {**{id: refs[id] for id in others[1:]}, others[0]: "no json"})
    assert (found["n_missing"], found["n_unparsed"], found["n"]) == (1, 1, 6)
    assert found["intent_f1"] == pytest.approx(4 / 6)
    task.skip_missing = True
    assert task.score(refs, {first: refs[first]})["n"] == 1
    replicates, unit = task.replicates(refs, {first: refs[first]})
    assert unit == "utterance" and replicates.shape == (1000,)


def test_replicates_are_scores_of_resampled_sets():
    pairs = random_pairs(1, 30)
    refs, hyps = ({f"u{i:02d}": encode(pair[side], "json") for i, pair in enumerate(pairs)} for side in (0, 1))
    task = get_task("slu")
    replicates, _ = task.replicates(refs, hyps, repetitions=5, seed=3)
    counts, _ = task.resampled(refs, None, 5, 3)
    for row, value in zip(counts, replicates):
        drawn = [pair for pair, times in zip(pairs, row) for _ in range(times)]
        assert value == pytest.approx(official(drawn)["slu"])
    others = task.more_replicates(refs, hyps, counts)
    expected = official([pairs[i] for i in np.repeat(range(30), counts[0])])
    assert others["entity_f1"][0] == pytest.approx(expected["span"]) and others["intent_f1"][0] == expected["intent"]


def test_target_formats_of_the_task(data):
    class Letters:
        source, family, reads_text, needs_instruction = "letters", "letters", False, False

        def writes(self, text):
            return set(text) <= set(string.ascii_lowercase + "' ")

    task = get_task("slu")
    task.adapt(Letters())
    assert task.settings() == {"target_format": "plain"}
    target = encode(FRAME, "json")
    assert task.written(target) == "alarm query '' event'name ' dance class"
    assert task.parse(task.written(target)) == target
    with pytest.raises(UsageError, match="--target-format json: letters has no tokens"):
        get_task("slu").configure(target_format="json").adapt(Letters())
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        get_task("slu").configure(target_format="linaer")


def test_broken_table(data):
    write_text(data / "utt2slu", (data / "utt2slu").read_text().replace('"music"', "3"))
    with pytest.raises(SpeechMergeError, match=r"utt2slu:s0-000: found '\{.*expected \{\"scenario\""):
        get_task("slu").examples(DataDir.read(data, check=False))


# --- plain files, laid out as SLURP's

GOLD = [
    {"slurp_id": 9054, "sentence": "event reminder mona tuesday", "intent": "calendar_set", "action": "set",
     "sentence_annotation": "event reminder [event_name : mona] [date : tuesday]", "scenario": "calendar",
     "tokens": [{"surface": s, "id": i} for i, s in enumerate(["event", "reminder", "Mona", "tuesday"])],
     "recordings": [{"file": "audio-1497872916-headset.flac", "wer": 0.0, "ent_wer": 0.0, "status": "correct"},
                    {"file": "audio--1504194195.flac", "wer": 0.5, "ent_wer": None, "status": "correct"}],
     "entities": [{"span": [2], "type": "event_name"}, {"span": [3], "type": "date"}]},
    {"slurp_id": 2, "sentence": "jessica's number", "intent": "music", "action": "query", "scenario": "email",
     "sentence_annotation": "[person : jessica's] number",
     "tokens": [{"surface": s, "id": i} for i, s in enumerate(["Jessica", "'s", "number"])],
     "recordings": [{"file": "audio-3.flac", "wer": 1.43, "ent_wer": 0.0, "status": "correct"}],
     "entities": [{"span": [0, 1], "type": "person"}]},
]


@pytest.fixture
def slurp(tmp_path):
    write_text(tmp_path / "test.jsonl", "".join(json.dumps(record) + "\n" for record in GOLD))
    lines = [{"file": "audio-1497872916-headset.flac", "scenario": "x", "action": "x", "entities": []},
             {"file": "audio-1497872916-headset.flac", "scenario": "calendar", "action": "set",
              "entities": [entity("date", "tuesday"), entity("event_name", "mona")]},
             {"file": "audio-3.flac", **frame("email", "query", ("person", "jessica's"))},
             {"file": "audio-of-another-set.flac", "scenario": "a", "action": "b", "entities": []}]
    write_text(tmp_path / "pred.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_gold_fillers_are_lower_cased_token_surfaces(slurp):
    gold = {file: json.loads(text) for file, text in slurp_gold(slurp / "test.jsonl").items()}
    assert sorted(gold) == ["audio--1504194195.flac", "audio-1497872916-headset.flac", "audio-3.flac"]
    assert gold["audio-3.flac"] == frame("email", "query", ("person", "jessica 's"))
    assert gold["audio--1504194195.flac"]["entities"] == [entity("event_name", "mona"), entity("date", "tuesday")]
    assert sorted(slurp_gold(slurp / "test.jsonl", by_prompt=True)) == ["2", "9054"]


def script(*words):
    return subprocess.run([str(ROOT / "utils" / words[0]), *map(str, words[1:])], capture_output=True, text=True)


def test_score_slu(slurp):
    found = script("score_slu.sh", slurp / "test.jsonl", slurp / "pred.jsonl", "--output", slurp / "out.json")
    assert found.returncode == 0, found.stderr
    out = read_json(slurp / "out.json")
    assert (out["n"], out["n_missing"], out["intent_f1"]) == (3, 1, pytest.approx(2 / 3))
    assert out["entity_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 3)) and "slu_f1" in found.stdout
    found = script("score_slu.sh", slurp / "test.jsonl", slurp / "pred.jsonl", "--skip-missing", "true",
                   "--output", slurp / "out.json")
    out = read_json(slurp / "out.json")
    gold, guesses = slurp_gold(slurp / "test.jsonl"), slurp_predictions(slurp / "pred.jsonl")
    pairs = [(json.loads(gold[file]), json.loads(text)) for file, text in guesses.items() if file in gold]
    expected = official(pairs)
    assert out["n"] == 2
    assert (out["slu_f1"], out["word_f1"]) == (pytest.approx(expected["slu"]), pytest.approx(expected["word"]))


def test_predictions_of_gold_transcripts(slurp):
    prediction = {"slurp_id": 2, **frame("email", "query", ("person", "jessica 's"))}
    write_text(slurp / "pred.jsonl", json.dumps(prediction) + "\n")
    found = script("score_slu.sh", slurp / "test.jsonl", slurp / "pred.jsonl", "--load-gold", "--output", slurp / "o")
    assert found.returncode == 0 and read_json(slurp / "o")["entity_f1"] == pytest.approx(2 / 4), found.stderr
    found = script("score_slu.sh", slurp / "test.jsonl", slurp / "pred.jsonl")
    assert found.returncode == 1 and "of gold transcripts: --load-gold" in found.stderr


def test_broken_plain_files(slurp):
    write_text(slurp / "test.jsonl", '{"slurp_id": 1}\n')
    with pytest.raises(SpeechMergeError, match="test.jsonl:1: not a record of SLURP"):
        slurp_gold(slurp / "test.jsonl")
    write_text(slurp / "pred.jsonl", "{\n")
    with pytest.raises(SpeechMergeError, match="pred.jsonl:1: not JSON"):
        slurp_predictions(slurp / "pred.jsonl")


def test_bootstrap_pairs_systems():
    """The same system twice: every difference of replicates is zero."""
    pairs = random_pairs(2, 20)
    refs, hyps = ({f"u{i:02d}": encode(pair[side], "json") for i, pair in enumerate(pairs)} for side in (0, 1))
    speakers = {id: f"s{i % 7}" for i, id in enumerate(sorted(refs))}
    first, unit = get_task("slu").replicates(refs, hyps, speakers=speakers)
    second, _ = get_task("slu").replicates(refs, dict(reversed(hyps.items())), speakers=speakers)
    assert unit == "speaker" and np.array_equal(first, second)
