"""Kinds of word errors: hand-made cases, panphon's own distance, the scorer's counts, the verb on made-up hypotheses."""
import functools
import itertools
import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmerge.analysis.errors import Pronouncer, mixed
from speechmerge.cli import main
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.metrics.error_types import (
    CLASSES, DELETIONS, INSERTIONS, SUBSTITUTIONS, Error, Typology, changes, class_counts, loop_turns, phone_pairs, script)
from speechmerge.metrics.phone_distance import PhoneDistance
from speechmerge.metrics.wer import ErrorRates, error_rates

DISTANCE = PhoneDistance()
PHONES = "p b t t̪ ʈ d k s ʃ tʃ dʒ ts m n r ɾ l i iː e ɛ a o u".split()
LEXICONS = {"it": {"casa", "rosa", "gatto", "il", "vede", "la"}, "es": {"perro", "gato", "el", "ve", "la", "una"}}
SOUNDS = {"casa": "kaza", "caza": "kaza", "cassa": "kassa", "gatto": "ɡatto"}


def sounds(word, language):
    return None if language == "xx" else tuple(SOUNDS.get(word, word))


@pytest.fixture(scope="module")
def typology():
    return Typology(LEXICONS, sounds)


def kinds(typology, reference: str, hypothesis: str, language="it", seconds=None) -> list[str]:
    rates = ErrorRates([reference], [hypothesis])
    return [error.kind for error in typology.errors(rates, [language], [seconds])[0]]


# Phones


@settings(max_examples=60, deadline=None)
@given(*[st.lists(st.sampled_from(PHONES), min_size=1, max_size=6)] * 2)
def test_the_distance_is_panphons_and_its_edits_pay_for_it(first, second):
    distance, edits = DISTANCE.compare(first, second)
    tied = ["".join(unit for phone in phones for unit in DISTANCE.units(phone)) for phones in (first, second)]
    expected = reference_distance(*tied)
    assert distance * max(len(first), len(second)) == pytest.approx(expected, abs=1e-9)
    paid = sum(1 if "∅" in pair else reference_distance(*pair) for pair in edits)
    assert paid == pytest.approx(expected, abs=1e-9)
    assert DISTANCE.compare(second, first)[0] == pytest.approx(distance, abs=1e-9)


@functools.lru_cache(maxsize=1)
def panphon_distance():
    from panphon.distance import Distance

    return Distance()


def reference_distance(first: str, second: str) -> float:
    found = panphon_distance()
    return found.weighted_feature_edit_distance(first, second) / sum(found.fm.weights)


def test_golden_distances():
    assert sum(panphon_distance().fm.weights) == 7.25
    # voice counts 0.125 of 7.25, twice between + and -; four phones long
    assert DISTANCE.compare(["k", "a", "s", "a"], ["k", "a", "z", "a"]) == (pytest.approx(0.25 / 7.25 / 4), [("s", "z")])
    assert DISTANCE.compare("kasa", "kas") == (0.25, [("a", "∅")])
    assert DISTANCE.compare("ka", "") == (None, [])


def test_an_affricate_in_one_piece_is_one_phone():
    assert DISTANCE.units("dʒ") == ("d͡ʒ",) and DISTANCE.units("tʃʲ") == ("t͡ʃʲ",) and DISTANCE.units("aɪ") == ("a", "ɪ")
    assert DISTANCE.compare(["dʒ"], ["tʃ"])[0] == pytest.approx(0.25 / 7.25)
    assert DISTANCE.compare(["d", "ʒ"], ["dʒ"])[0] > 0.4  # a stop and a fricative are two


def test_retroflex_and_dental_are_near_but_not_the_same():
    distance, edits = DISTANCE.compare(["ʈ"], ["t̪"])
    assert 0 < distance < 0.15 and edits == [("ʈ", "t̪")]


def test_what_panphon_does_not_know_is_not_passed_over():
    assert not any(panphon_distance().fm.ipa_segs(phone) for phone in "gᵻ?")
    assert DISTANCE.compare(["g"], ["ɡ"])[0] == 0 and DISTANCE.compare(["ᵻ"], ["i"])[0] < 0.2
    assert DISTANCE.compare(["?", "a"], ["a"])[0] == 0.5 and DISTANCE.compare(["?"], ["!"])[0] == 1
    assert DISTANCE.compare(["?"], ["?"])[0] == 0


# Single utterances


@pytest.mark.parametrize("word, expected", [
    ("casa", "LATIN"), ("дом", "CYRILLIC"), ("हिन्दी", "DEVANAGARI"), ("ਪੰਜਾਬੀ", "GURMUKHI"), ("తెలుగు", "TELUGU"), ("25", None),
    ("e\u0301", "LATIN"), ("東京タワー", "CJK"), ("ひらがな", "CJK"), ("", None)])
def test_scripts(word, expected):
    assert script(word) == expected


@pytest.mark.parametrize("reference, hypothesis, expected", [
    ("il gatto vede casa", "il gatto vede дом", ["script"]),
    ("il gatto vede casa", "il gatto vede perro", ["language"]),
    ("il gatto vede casa", "il gatto vede caza", ["spelling"]),
    ("il gatto vede casa", "il gatto vede cassa", ["phonetic"]),
    ("il gatto vede perla", "il gatto vede tubi", ["oov"]),
    ("il gatto vede casa", "il gatto vede tubi", ["other"]),
    ("il gatto vede casa", "el gato ve una perla", ["insertion", *["language"] * 4]),  # as a whole, perla too
    ("il gatto vede casa", "il gatto vede la casa", ["insertion"]),  # la is of both languages
    ("il gatto vede casa", "il gatto vede casa casa casa casa", ["hallucination"] * 3),
    ("no no no no gatto", "no no no no il gatto", ["insertion"]),  # the reference itself repeats
    ("il gatto", "il gatto sopra tubi verdi", ["hallucination"] * 3),
    ("il gatto", "a il b gatto c", ["hallucination"] * 3),  # three words more, more than twice as many
    ("", "grazie", ["hallucination"]),
    ("il gatto vede casa", "il gatto", ["truncation"] * 2),
    ("il gatto vede casa", "il gatto vede", ["deletion"]),
    ("il gatto vede casa", "vede casa", ["deletion"] * 2),
    ("casa", "", ["truncation"]),
    ("il gatto vede casa", "il gatto vede casa", []),
])
def test_classes_of_single_utterances(typology, reference, hypothesis, expected):
    assert kinds(typology, reference, hypothesis) == expected


def test_more_words_than_anybody_says_in_the_time(typology):
    words = "uno due tre quattro cinque sei sette otto nove", "uno a due b tre c quattro cinque sei sette otto nove"
    assert kinds(typology, *words, seconds=6.0) == ["insertion"] * 3
    assert kinds(typology, *words, seconds=1.0) == ["hallucination"] * 3


def test_without_a_voice_nothing_is_said_of_sounds(typology):
    assert kinds(typology, "casa", "caza", "xx") == ["unjudged"] and kinds(typology, "casa", "дом", "xx") == ["script"]


def test_words_of_the_references_are_of_their_language(typology):
    assert kinds(typology, "casa", "perro") == ["language"]
    own = Typology(LEXICONS, sounds, {"it": {"perro"}})
    assert kinds(own, "casa", "perro") == ["other"]


def test_the_same_features_are_not_the_same_sound():
    """panphon does not tell r and ɾ apart: distance 0, and yet no homophones."""
    apart = Typology({}, lambda word, language: {"perro": ("p", "e", "r", "o"), "pero": ("p", "e", "ɾ", "o")}.get(word))
    [[error]] = apart.errors(ErrorRates(["perro"], ["pero"]), ["es"], [None])
    assert (error.kind, error.distance, error.phones) == ("phonetic", 0.0, (("r", "ɾ"),))
    assert phone_pairs([[error]]) == {("r", "ɾ"): 1}


def test_the_threshold_is_an_option():
    strict = Typology(LEXICONS, sounds, threshold=0.01)
    assert kinds(strict, "il gatto vede casa", "il gatto vede cassa") == ["other"]


def test_indics_empty_reference_is_no_word_of_another_script(typology):
    rates = error_rates(["।"], ["नमस्ते"], "indic", ["hi"])
    assert [error.kind for error in typology.errors(rates, ["hi"], [1.0])[0]] == ["other"]


def test_espeak_speaks_and_says_where_it_cannot():
    speak = Pronouncer()
    assert speak("gente", "it")[0] == "dʒ" and speak("घर", "hi") and speak("中", "zh")
    assert speak("casa", "xx") is None and not speak.knows("xx")
    spoken = Typology({}, speak)
    assert kinds(spoken, "la hora", "la ora", "es") == ["spelling"]
    assert kinds(spoken, "кот", "код", "ru") in (["spelling"], ["phonetic"])


# Many utterances

WORD = st.sampled_from(["casa", "caza", "perro", "il", "дом", "घर", "7", "gatto", "el", "la"])
TEXTS = st.lists(st.tuples(st.lists(WORD, max_size=8), st.lists(WORD, max_size=8)), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_the_classes_add_up_to_the_score(pairs):
    rates = error_rates(*([" ".join(words) for words in texts] for texts in zip(*pairs)), "none")
    found = class_counts(TYPOLOGY.errors(rates, ["it", "es", "xx"] * len(pairs), [1.0, None] * len(pairs)))
    for column, group in enumerate((SUBSTITUTIONS, DELETIONS, INSERTIONS), 1):
        assert (found[:, [CLASSES.index(kind) for kind in group]].sum(1) == rates.counts[:, column]).all()
    same = ErrorRates(rates.references, rates.references)
    assert not any(TYPOLOGY.errors(same, ["it"] * len(pairs), [1.0] * len(pairs)))


TYPOLOGY = Typology(LEXICONS, sounds)


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.randoms())
def test_changes_balance(pairs, random):
    references = [" ".join(words) for words, _ in pairs]
    systems = []
    for _ in range(2):
        hypotheses = [" ".join(random.sample(words, len(words))) for _, words in pairs]
        systems.append(TYPOLOGY.errors(ErrorRates(references, hypotheses), ["it"] * len(pairs), [None] * len(pairs)))
    before, after = systems
    added, removed = changes(before, after)
    totals = [class_counts(each).sum(1) for each in systems]
    assert (totals[0] + added.sum(1) - removed.sum(1) == totals[1]).all()
    assert not np.any(changes(before, before))


def test_a_changed_class_is_neither_added_nor_removed():
    old, new = [[Error("oov", ("word", 3))]], [[Error("language", ("word", 3)), Error("insertion", ("gap", 1, 0))]]
    added, removed = changes(old, new)
    assert added.sum() == added[0, CLASSES.index("insertion")] == 1 and removed.sum() == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("ab"), max_size=12))
def test_loops_are_those_of_counting(words):
    expected = min(len(words), 1)
    for size, start in itertools.product(range(1, 7), range(len(words))):
        run = words[start:start + size]
        turns = 1
        while words[start + turns * size:start + (turns + 1) * size] == run:
            turns += 1
        expected = max(expected, turns if len(run) == size else 0)
    assert loop_turns(words) == expected


# The verb

TEXT = {"it": ["il gatto vede la casa", "la rosa è rossa", "il treno parte adesso", "la luna sorge"],
        "hi": ["घर में पानी है", "मेरा नाम राम है", "आज मौसम अच्छा है", "वह घर जाता है"]}
WRITTEN = {  # system -> set -> hypotheses; the last of `base` on hi is missing
    "base": {"it": ["il gato vede la casa", "la rosa e rossa", "el tren parte", "la luna sorge sorge sorge sorge"],
             "hi": ["ghar mein पानी है", "मेरा नाम राम", "", None]},
    "it": {"it": ["il gatto vede la casa", "la rosa è rosa", "il treno parte", "la luna sorge"],
           "hi": ["il pane", "mira nam", "aj", "la casa"]},
    "hi": {"it": ["il gatto", "la rosa", "il treno", "la luna"],
           "hi": ["घर में पानी है", "मेरा नाम राम है", "आज मौसम अछा है", "वह घर जाता"]},
    "mean": {"it": ["il gatto vede la cassa", "la rosa è rossa", "il treno parte ora", "la luna"],
             "hi": ["घर में पानी है", "मेरा काम राम है", "आज मौसम अच्छा है", "वह घर"]}}


def write_exp(root: Path, sets=("it", "hi")) -> Path:
    for name in sets:
        for split, texts in (("train", TEXT[name][:2]), ("test", TEXT[name])):
            rows = {f"{name}-{i}": Utterance(f"{name}-{i}", f"/nowhere/{name}-{i}.wav", text, f"spk{i}", name, 2.0)
                    for i, text in enumerate(texts)}
            DataDir(root / "data" / name / split, rows).write()
        for system in WRITTEN:
            write_hyp(root, system, name, WRITTEN[system][name])
    return root


def write_hyp(root: Path, system: str, name: str, texts):
    folder = root / "exp/decode/test" / system / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{name}-{i} {text}\n" for i, text in enumerate(texts) if text is not None]
    folder.joinpath("hyp").write_text("".join(rows))
    kind = {"base": "base", "mean": "merged"}.get(system, "adapter")
    record = {"task": "asr", "key": "k", "data": f"data/{name}/test", "settings": {}, "model": {"fingerprint": "f"},
              "system": {"name": system, "kind": kind, "task": "asr", "path": f"exp/{system}", "method": None, "params": {}}}
    folder.joinpath("decode.json").write_text(json.dumps(record))


def run(root: Path, *words) -> int:
    return main(list(map(str, ["analyze", "--kind", "errors", "--split", "test", "--data", "data", "--exp-dir", "exp",
                               "--output-dir", "out", *words])))


@pytest.fixture
def exp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_exp(tmp_path)


def test_every_system_against_the_scorer(exp, capsys):
    assert main(["score", "--split", "test", "--normaliser", "indic"]) == 0
    assert run(exp) == 0
    found = json.loads((exp / "out/analysis.json").read_text())
    assert found["normaliser"] == "indic"  # as it was scored
    for name, about in found["sets"].items():
        assert list(about["systems"]) == ["base", "hi", "it", "mean"]
        for system, entry in about["systems"].items():
            score = json.loads((exp / "exp/decode/test" / system / name / "score.json").read_text())["generation"]
            counted = {kind: count for kind, count in entry["counts"].items() if count is not None}
            for key, group in (("substitutions", SUBSTITUTIONS), ("insertions", INSERTIONS), ("deletions", DELETIONS)):
                assert sum(counted.get(kind, 0) for kind in group) == score[key]
            assert entry["wer"] == score["wer"]
            assert sum(counted.values()) / about["words"] == pytest.approx(score["wer"])
            assert all(low <= entry["per_100"][kind] <= high for kind in counted for low, high in [entry["ci"][kind]])
    italian, hindi = (found["sets"][name] for name in ("it", "hi"))
    assert hindi["systems"]["it"]["counts"]["script"] == 7 and hindi["systems"]["hi"]["counts"]["script"] == 0
    assert italian["systems"]["base"]["hallucinated_utterances"] == {"loop": 1}
    assert italian["systems"]["hi"]["counts"]["truncation"] == 7  # one word left out at the end is none
    assert hindi["systems"]["base"]["empty_hypotheses"] == 2
    check_changes(found, exp)
    capsys.readouterr()
    assert run(exp) == 0 and "kept" in capsys.readouterr().out
    write_hyp(exp, "mean", "it", ["il gatto"] * 4)
    assert run(exp) == 0 and "kept" not in capsys.readouterr().out


def check_changes(found, exp):
    """The merge against each set's adapter: recounted by hand; pictures and examples are there."""
    change = found["sets"]["it"]["changes"]["mean"]
    assert change["against"] == "it" and found["sets"]["hi"]["changes"]["mean"]["against"] == "hi"
    assert sum(change["added"].values()) == 2  # cassa, sorge; `adesso` was wrong before
    assert sum(change["removed"].values()) == 1  # rosa > rossa
    assert sum(value for value in change["net"].values() if value) == pytest.approx(100 / 16, abs=1e-4)
    assert "it" not in found["sets"]["it"]["changes"]
    names = {path.stem for path in (exp / "out").glob("*.png")}
    assert names == {path.stem for path in (exp / "out").glob("*.csv")} == {
        "errors_it", "errors_hi", "errors_changed_it", "errors_changed_hi", "confused_words", "confused_phones"}
    assert {row["kind"] for row in found["examples"]} <= set(CLASSES)
    for row in found["examples"]:
        assert row["audio"] == f"/nowhere/{row['utt']}.wav" and row["reference"] != row["hypothesis"]
        output = jiwer.process_words(row["reference"], row["hypothesis"])
        assert output.substitutions + output.insertions + output.deletions > 0


def test_the_first_examples_are_of_all_sets_and_classes():
    rows = [[(name, kind) for kind in range(6)] for name in "abc"]
    shown = mixed(rows)
    assert sorted(shown) == sorted(sum(rows, [])) and {row[0] for row in shown[:3]} == set("abc")
    assert {row[1] for row in shown[:6]} == set(range(6)) and mixed([[], ["x"]]) == ["x"]


def test_what_is_chosen_and_what_is_missing(exp, capsys):
    assert run(exp, "--options", "{systems: base merged, sets: it}") == 0
    about = json.loads((exp / "out/analysis.json").read_text())["sets"]["it"]
    assert list(about["systems"]) == ["base", "mean"] and about["changes"]["mean"]["against"] == "it"
    capsys.readouterr()
    assert run(exp, "--options", "{systems: ties}") == 1
    assert "speechmerge decode --systems ties --tasks" in capsys.readouterr().err
    assert run(exp, "--options", "{sets: fr}") == 1
    assert "decode" in capsys.readouterr().err
    assert run(exp, "--options", "{normaliser: best}") == 2
    write_hyp(exp, "mean", "it", ["a"] * 5)
    assert run(exp) == 1
    assert "it-4" in capsys.readouterr().err


def test_sets_without_voice_or_transcripts_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_exp(tmp_path, ("it",))
    rows = {f"it-{i}": Utterance(f"it-{i}", f"/nowhere/{i}.wav", text, None, "umb", 2.0) for i, text in enumerate(TEXT["it"])}
    DataDir(tmp_path / "data/it/test", rows).write()
    assert run(tmp_path) == 0
    about = json.loads((tmp_path / "out/analysis.json").read_text())["sets"]["it"]
    counts = about["systems"]["base"]["counts"]
    assert counts["phonetic"] is counts["spelling"] is counts["oov"] is None and counts["unjudged"] + counts["language"] > 0
    assert "no voice for umb" in (printed := capsys.readouterr().out) and "no transcripts to train on in umb" in printed
