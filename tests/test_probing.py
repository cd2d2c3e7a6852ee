"""Probes on states whose answer is known, classes of phones, times of phones against espeak-ng's own, the verbs."""
import csv
import itertools
import json

import numpy as np
import pytest
import soundfile
from adapters import make_adapter
from tiny import tiny_whisper

from speechmerge.alignment.aligner import align, boundary_errors, features
from speechmerge.alignment.data import make_times, times_of_data
from speechmerge.alignment.espeak import Announcer, Said, phones_of
from speechmerge.alignment.exact import exact_times
from speechmerge.alignment.times import Piece, Times, read_ctm, read_textgrid, read_times, write_textgrid, write_times
from speechmerge.alignment.viterbi import best_path
from speechmerge.analysis.probing_classifier import Judgement, Question, answers, balanced, make_folds, strengths
from speechmerge.analysis.probing_states import Sound, harvest, position_seconds, sample_of
from speechmerge.analysis.probing_targets import class_of, phones_at, segments, word_type
from speechmerge.cli import main
from speechmerge.corpora.mini.corpus import plan_split, write_split
from speechmerge.corpora.mini.render import begin, render_all
from speechmerge.corpora.mini.speech import Delivery, Synthesizer
from speechmerge.data.audio import read_audio
from speechmerge.data.batching import FeatureCache
from speechmerge.data.directory import DataDir, Trial
from speechmerge.errors import SpeechMergeError
from speechmerge.models.base import load_model
from speechmerge.systems import register_adapter
from speechmerge.tasks import get_task
from speechmerge.tasks.base import Example

HELLO = Times((Piece(0.1, 0.2, "h"), Piece(0.2, 0.35, "aɪ"), Piece(0.5, 0.6, "s")),
              (Piece(0.1, 0.35, "hi"), Piece(0.5, 0.6, '"so"')))


# Times of phones and words

def test_tables_come_back_as_they_were(tmp_path):
    times = {"a-1": HELLO, "b-2": Times((Piece(0.0, 1.25, "oː"),), ())}
    write_times(tmp_path, times)
    assert (tmp_path / "phones.ctm").read_text().splitlines()[1] == "a-1 1 0.200 0.150 aɪ"
    for id, found in read_times(tmp_path).items():
        for ours, theirs in zip(found.phones + found.words, times[id].phones + times[id].words, strict=True):
            assert (ours.start, ours.end) == pytest.approx((theirs.start, theirs.end)) and ours.text == theirs.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrids_come_back_as_they_were(tmp_path, encoding):
    write_textgrid(tmp_path / "textgrid" / "a-1.TextGrid", HELLO, 0.8)
    path = tmp_path / "textgrid" / "a-1.TextGrid"
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert read_times(tmp_path) == {"a-1": HELLO}


def test_a_textgrid_of_the_montreal_forced_aligner(tmp_path):
    """Tiers named after the speaker, words first, silence as text, spaces at the ends of lines; a tier of points."""
    head = ('File type = "ooTextFile" \nObject class = "TextGrid" \n\nxmin = 0 \nxmax = 1 \ntiers? <exists> \n'
            "size = 3 \nitem []: \n")
    tiers = "".join(
        f'    item [{n}]:\n        class = "IntervalTier" \n        name = "anna - {name}" \n        xmin = 0 \n'
        "        xmax = 1 \n"
        f"        intervals: size = {len(rows)} \n" + "".join(
            f'        intervals [{k}]:\n            xmin = {a} \n            xmax = {b} \n'
            f'            text = "{text}" \n'
            for k, (a, b, text) in enumerate(rows, 1))
        for n, (name, rows) in enumerate([("words", [(0, 0.4, ""), (0.4, 1, "so")]),
                                          ("phones", [(0, 0.4, "sil"), (0.4, 0.7, "s"), (0.7, 1, "oʊ")])], 1))
    points = ('    item [3]:\n        class = "TextTier" \n        name = "clicks" \n        xmin = 0 \n'
              '        xmax = 1 \n        points: size = 1 \n        points [1]:\n            number = 0.5 \n'
              '            mark = "x" \n')
    (tmp_path / "u.TextGrid").write_text(head + tiers + points)
    found = read_textgrid(tmp_path / "u.TextGrid")
    assert found == Times((Piece(0.4, 0.7, "s"), Piece(0.7, 1.0, "oʊ")), (Piece(0.4, 1.0, "so"),))


@pytest.mark.parametrize("line, message", [
    ("a 1 0.5 x s", "expected `utterance channel start duration text`"), ("a 1 0.5 0.1", "phones.ctm:2"),
    ("a 1 -0.5 0.1 s", "expected times from 0 on"), ("a 1 0.5 -0.1 s", "expected times from 0 on"),
    ("a 1 0.1 0.1 s", "before 'p' ends at 0.4"), ("a 1 nan 0.1 s", "expected times from 0 on"),
    ("a 1 0.5 inf s", "expected times from 0 on")])
def test_what_is_wrong_in_a_table_is_named(tmp_path, line, message):
    (tmp_path / "phones.ctm").write_text(f"a 1 0.2 0.2 p\n{line}\n")
    with pytest.raises(SpeechMergeError, match="phones.ctm:2") as error:
        read_ctm(tmp_path / "phones.ctm")
    assert message in str(error.value)


def test_pieces_may_overlap_by_rounding_and_silence_is_no_piece(tmp_path):
    lines = [";; made by hand", "a A 0.00 0.10 <eps>", "a A 0.10 0.10 p 0.99", "", "a A 0.195 0.10 a"]
    (tmp_path / "phones.ctm").write_text("\n".join(lines))
    assert [piece.text for piece in read_ctm(tmp_path / "phones.ctm")["a"]] == ["p", "a"]


def test_other_textgrids_are_refused_by_name(tmp_path):
    (tmp_path / "u.TextGrid").write_text('"ooTextFile"\n"TextGrid"\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n')
    with pytest.raises(SpeechMergeError, match="u.TextGrid: tiers .*long text format"):
        read_textgrid(tmp_path / "u.TextGrid")


# The best path

def brute_force(scores, optional) -> float:
    """Of every choice of optional states and every composition of the frames."""
    frames, best = len(scores), -np.inf
    choices = [(True, False) if own else (True,) for own in optional]
    for taken in itertools.product(*choices):
        states = [place for place, own in enumerate(taken) if own]
        for ends in itertools.combinations(range(1, frames), len(states) - 1):
            edges = (0, *ends, frames)
            best = max(best, sum(scores[edges[n] : edges[n + 1], state].sum() for n, state in enumerate(states)))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_path_is_better(seed):
    rng = np.random.default_rng(seed)
    optional = [seed % 2 == 0, False, seed % 3 == 0, False, seed % 4 < 2]
    scores = rng.normal(size=(int(rng.integers(5, 9)), 5))
    path = best_path(scores, optional)
    assert scores[np.arange(len(path)), path].sum() == pytest.approx(brute_force(scores, optional))
    taken = list(dict.fromkeys(path.tolist()))
    assert taken == sorted(taken) and {n for n, own in enumerate(optional) if not own} <= set(taken)


def test_long_rows_of_states_and_too_few_frames():
    """More states than a small integer counts."""
    wanted = np.repeat(np.arange(300), 2)
    scores = np.where(np.arange(300) == wanted[:, None], 0.0, -1.0)
    assert (best_path(scores, np.zeros(300, bool)) == wanted).all()
    with pytest.raises(SpeechMergeError, match="3 frames for 4 states"):
        best_path(np.zeros((3, 5)), [True, False, False, False, False])


# espeak-ng's times

def test_the_announcer_says_the_same_samples_and_ends_with_them():
    announcer = Announcer()
    for text, language in (("the judge chews nice cheese, in 25 days", "en"), ("मंत्री बाज़ार में है", "hi")):
        said = announcer.say(text, language, "f2", Delivery(180, 60, 40))
        assert np.array_equal(said.samples, Synthesizer().speak(text, language, "f2", Delivery(180, 60, 40)))
        starts = [piece.start for piece in said.times.phones]
        assert starts == sorted(starts) and said.times.phones[-1].end <= len(said.samples) / 16000 + 1e-9
        assert [word.text for word in said.times.words] == text.split()
        again = announcer.say(text, language, "f2", Delivery(180, 60, 40))
        assert again.times == said.times  # nothing is left of what was said before


def test_phones_stand_where_they_sound():
    """The loudest 's' of "yes" is high, the vowel before it low: independent of what espeak tells."""
    said = Announcer().say("yes", "en")
    assert [piece.text for piece in said.times.phones] == ["j", "ɛ", "s"]

    def centroid(piece):
        part = said.samples[int(piece.start * 16000) : int(piece.end * 16000)]
        power = np.abs(np.fft.rfft(part)) ** 2
        return (power * np.fft.rfftfreq(len(part), 1 / 16000)).sum() / power.sum()

    _, vowel, hiss = said.times.phones
    assert centroid(hiss) > 3000 > 1500 > centroid(vowel)


def test_events_become_phones():
    """(type, seconds, place in the text, name): a nameless part inside a word, pauses, a closure before a word."""
    events = [(1, 0.0, 0, ""), (7, 0.05, 0, "t"), (7, 0.10, 0, ""), (7, 0.15, 0, "r"), (7, 0.30, 3, ""),
              (7, 0.40, 3, ""), (5, 0.40, 3, ""), (1, 0.50, 4, ""), (7, 0.60, 4, "a")]
    found = [(Piece(0.0, 0.15, "t"), 0), (Piece(0.15, 0.30, "r"), 0), (Piece(0.50, 0.9, "a"), 4)]
    assert phones_of(events, 0.9) == found


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """The dev split of the mini corpus's asr task, as its recipe makes it."""
    folder = tmp_path_factory.mktemp("spoken") / "asr" / "dev"
    requests, _ = plan_split("asr", "dev", 1, 1.0)
    render_all(begin(requests, folder / "audio"))
    write_split(folder, "asr", requests, None)
    return DataDir.read(folder)


class Equal(Announcer):
    """Tells the right phones, all equally long: a flat start."""

    def say(self, text, language, variant="", delivery=Delivery()):
        said = super().say(text, language, variant, delivery)
        phones = tuple(Piece(0.08 * n, 0.08 * (n + 1), piece.text) for n, piece in enumerate(said.times.phones))
        return Said(said.samples, Times(phones, said.times.words), said.word_of)


def test_forced_alignment_finds_the_synthesizers_times(spoken):
    truth = exact_times(spoken, Announcer())
    assert len(truth) == 48
    heard = {id: (read_audio(own.audio, 16000), own.text, own.language) for id, own in spoken.utterances.items()}

    def error(announcer, turns):
        found = align(heard, announcer, turns)
        return np.mean([error for id in truth for error in boundary_errors(found[id], truth[id])])

    assert error(Announcer(), 4) < 0.022
    equal = error(Equal(), 0)
    assert equal > 0.045 and error(Equal(), 8) < 0.6 * equal  # training alone finds them, without espeak's lengths


def test_exact_times_are_of_this_audio_only(spoken, tmp_path):
    """Same transcript and length, another sound: no exact times."""
    ids = sorted(spoken.utterances)[:40]
    other = {id: spoken.utterances[id] for id in ids}
    samples, rate = soundfile.read(other[ids[0]].audio)
    soundfile.write(tmp_path / "other.wav", samples[::-1], rate)
    other[ids[0]] = type(other[ids[0]])(**{**vars(other[ids[0]]), "audio": str(tmp_path / "other.wav")})
    assert set(exact_times(DataDir(tmp_path / "asr/dev", other), Announcer())) == set(ids[1:])
    assert exact_times(DataDir(tmp_path / "kws/dev", other), Announcer()) == {}
    with pytest.raises(SpeechMergeError, match="--source forced"):
        make_times([DataDir(tmp_path / "kws/dev", other)], "exact")


def test_frames_of_features_stand_where_they_say():
    """A click in noise, at its place; too little audio has no frames."""
    samples = np.random.default_rng(0).normal(0, 0.001, 16000)
    samples[8000:8160] += 0.5
    found = features(samples)
    assert found.shape == (100, 39) and abs(found[:, 0].argmax() - 50) <= 1
    assert np.allclose(found.mean(0), 0) and len(features(samples[:100])) == 0


def test_too_short_utterances_are_left_out():
    rng = np.random.default_rng(0)
    found = align({"short": (rng.normal(size=1600), "a long sentence in no time", "en"),
                   "long": (rng.normal(size=32000), "yes", "en")}, turns=1)
    assert set(found) == {"long"} and [piece.text for piece in found["long"].words] == ["yes"]


def test_the_verb_writes_tables_and_says_how_good_it_is(spoken, capsys):
    assert main(["align", "--data", str(spoken.path), "--textgrid", "true", "--check", "true"]) == 0
    out = capsys.readouterr().out
    assert "exact times of" in out and float(out.split("differs by ")[1].split(" ms")[0]) < 22
    times = read_times(spoken.path)
    id = sorted(times)[0]
    grid = read_textgrid(spoken.path / "textgrid" / f"{id}.TextGrid")
    assert [piece.text for piece in grid.phones] == [piece.text for piece in times[id].phones]
    assert times_of_data(spoken, [id]) == ({id: times[id]}, "files")
    DataDir.read(spoken.path)  # nothing is wrong with a data directory that has them
    for path in (*spoken.path.glob("*.ctm"), *spoken.path.glob("textgrid/*")):
        path.unlink()


# Classes of phones

@pytest.mark.parametrize("phone, classes", [  # vowel, manner, place, voicing, height, backness
    ("p", "consonant stop labial voiceless - -"), ("b", "consonant stop labial voiced - -"),
    ("g", "consonant stop velar voiced - -"), ("ɡ", "consonant stop velar voiced - -"),
    ("dʒ", "consonant affricate postalveolar voiced - -"), ("d͡ʒ", "consonant affricate postalveolar voiced - -"),
    ("dʒʱ", "consonant affricate postalveolar voiced - -"), ("ts", "consonant affricate alveolar voiceless - -"),
    ("t", "consonant stop alveolar voiceless - -"), ("t̪", "consonant stop dental voiceless - -"),
    ("ʈ", "consonant stop retroflex voiceless - -"), ("ɖʰ", "consonant stop retroflex voiced - -"),
    ("ɳ", "consonant nasal retroflex - - -"), ("n̩", "consonant nasal alveolar - - -"),
    ("ŋ", "consonant nasal velar - - -"), ("ɲ", "consonant nasal palatal - - -"),
    ("θ", "consonant fricative dental voiceless - -"),
    ("ʃ", "consonant fricative postalveolar voiceless - -"), ("ç", "consonant fricative palatal voiceless - -"),
    ("x", "consonant fricative velar voiceless - -"), ("ʁ", "consonant fricative uvular voiced - -"),
    ("h", "consonant fricative glottal - - -"), ("ʔ", "consonant stop glottal - - -"),
    ("l", "consonant lateral alveolar - - -"),
    ("ʎ", "consonant lateral palatal - - -"), ("ɾ", "consonant rhotic alveolar - - -"),
    ("ɽ", "consonant rhotic retroflex - - -"),
    ("ʀ", "consonant rhotic uvular - - -"), ("ɹ", "consonant approximant alveolar - - -"),
    ("j", "consonant approximant palatal - - -"), ("w", "consonant approximant labial - - -"),
    ("ˈiː", "vowel vowel - - high front"), ("ũː", "vowel vowel - - high back"), ("ẽ", "vowel vowel - - mid front"),
    ("ɔ", "vowel vowel - - mid back"), ("ɑː", "vowel vowel - - low back"), ("ɚ", "vowel vowel - - mid back"),
    ("aɪ", "vowel vowel - - - -"), ("?", "- - - - - -")])
def test_classes_of_phones(phone, classes):
    names = ("vowel", "manner", "place", "voicing", "height", "backness")
    assert [class_of(phone, name) or "-" for name in names] == classes.split()


def test_why_affricates_are_tied():
    """panphon makes two segments of what has no tie bar; a phone of ours is one, diphthongs are two."""
    assert len(segments("dʒ")) == len(segments("tʃʰ")) == 1 and len(segments("aʊ")) == 2
    vectors = [tuple(own.values()) for own in segments("tʃ")]
    assert vectors == [tuple(own.values()) for own in segments("t͡ʃ")] and segments("tʃ")[0]["delrel"] == 1


def test_words_and_times():
    found = [word_type(word) for word in ("«Ciao!»", "d'accord", "फ़ोन।", "--")]
    assert found == ["ciao", "d'accord", word_type("फ़ोन"), ""]
    assert phones_at(HELLO.phones, [0.05, 0.1, 0.19, 0.2, 0.4, 0.5, 0.7]) == [None, 0, 0, 1, None, 2, None]


# Probes

PHONES = [f"p{n}" for n in range(24)]


def question(rng, per_utterance=12, utterances=60, classes=4, types=True):
    """Frames of random phones; phone n is of class n % classes."""
    phones = rng.integers(0, len(PHONES), per_utterance * utterances)
    of = np.repeat(np.arange(utterances), per_utterance)
    names = np.array(PHONES)[phones] if types else None
    return Question("manner", [f"c{n}" for n in range(classes)], phones % classes, names, of, of % 3), phones


def judged(asked, states):
    states = states.astype(np.float32)
    found = answers(asked, states, strengths(asked, states), 0)
    return Judgement(asked, [None] * 60, 200, 0).cell(found, None)[0]


def test_what_is_linearly_there_is_found_and_selective():
    """The class is in four dimensions, the phone is not there at all."""
    rng = np.random.default_rng(0)
    asked, _ = question(rng)
    found = judged(asked, np.eye(4)[asked.labels] + 0.05 * rng.normal(size=(720, 4)))
    assert found["accuracy"] == 1.0 and found["ci"] == [1.0, 1.0] and found["control"] < 0.45
    assert found["selectivity"] > 0.55 and found["selectivity_ci"][0] > 0.5


def test_noise_holds_nothing():
    rng = np.random.default_rng(1)
    asked, _ = question(rng)
    found = judged(asked, rng.normal(size=(720, 16)))
    assert found["accuracy"] == pytest.approx(0.25, abs=0.06) and found["selectivity"] == pytest.approx(0, abs=0.08)
    assert found["selectivity_ci"][0] < 0 < found["selectivity_ci"][1]


def test_who_knows_phones_by_heart_is_not_selective():
    """One dimension for each phone: any grouping of phones can be read off, right or not."""
    rng = np.random.default_rng(2)
    asked, phones = question(rng)
    found = judged(asked, np.eye(len(PHONES))[phones])
    assert found["accuracy"] == 1.0 and found["control"] == 1.0 and found["selectivity"] == 0.0


def test_words_cannot_be_controlled_by_their_type():
    """States that name the word: labels moved between word types are recognised as well; those of other tokens not."""
    rng = np.random.default_rng(3)
    asked, _ = question(rng, classes=len(PHONES), types=False)
    states = np.eye(len(PHONES))[asked.labels]
    assert judged(asked, states)["selectivity"] > 0.85
    by_type = Question(asked.name, asked.classes, asked.labels, asked.labels, asked.utterances, asked.folds)
    assert judged(by_type, states)["selectivity"] == 0.0


def test_control_labels_are_fixed_by_type_and_keep_the_sizes_of_classes():
    asked, phones = question(np.random.default_rng(4))
    labels = asked.control(0, seed=0)
    table = {}
    assert all(table.setdefault(phone, label) == label for phone, label in zip(phones, labels))
    assert sorted(table.values()) == sorted(n % 4 for n in range(24)) and (labels != asked.labels).any()
    assert (labels == asked.control(0, seed=0)).all() and (labels != asked.control(1, seed=0)).any()


def test_an_answer_never_comes_from_its_own_fold():
    """Labels that follow the fold alone: a probe that saw the fold would know them, others cannot."""
    rng = np.random.default_rng(5)
    folds = np.repeat([0, 1, 2], 40)
    asked = Question("x", ["a", "b", "c"], folds.copy(), None, np.arange(120), folds)
    states = np.eye(3)[folds] + 0.01 * rng.normal(size=(120, 3))
    found = answers(asked, states, [1.0] * 3, 0)
    assert (found.predicted != folds).all()
    assert (found.predicted >= 0).all()


@pytest.mark.parametrize("count", [2, 4])
def test_the_penalty_is_chosen_without_the_fold_that_is_tested(count):
    """Whatever stands in a fold, its own strength stays; of two folds, too."""
    rng = np.random.default_rng(6)
    of = np.arange(240) // 4
    folds, labels = of % count, rng.integers(0, 2, 240)
    states = np.eye(2)[labels] + rng.normal(size=(240, 2))
    chosen = strengths(Question("x", ["a", "b"], labels, None, of, folds), states)
    other = np.where(folds == 0, 1 - labels, labels)
    noisy = np.where((folds == 0)[:, None], 100.0, states)
    assert strengths(Question("x", ["a", "b"], other, None, of, folds), noisy)[0] == chosen[0]


def test_intervals_are_over_utterances():
    """All frames of an utterance are right or wrong together: as wide as of 40 independent ones, not as of 4000."""
    of = np.repeat(np.arange(40), 100)
    labels = np.tile(np.repeat([0, 1], 50), 40)
    asked = Question("x", ["a", "b"], labels, None, of, of % 3)
    predicted = np.where(of % 2 == 0, labels, 1 - labels)
    replicates = Judgement(asked, [None] * 40, 2000, 0).replicates(labels, predicted)
    assert replicates[0] == 0.5 and replicates[1:].std() == pytest.approx((0.25 / 40) ** 0.5, rel=0.1)
    weighted = np.where(labels == 0, labels, 0)  # always says a
    assert balanced(labels, weighted) == 0.5


def test_speakers_stay_together_where_there_are_enough():
    speakers = [f"s{n // 4}" for n in range(32)] + ["alone"] * 9
    folds, units = make_folds(speakers, ["many"] * 32 + ["one"] * 9, 3, seed=0)
    assert units == {"many": "speaker", "one": "utterance"}
    for name in set(speakers[:32]):
        assert len({int(fold) for fold, own in zip(folds, speakers) if own == name}) == 1
    assert np.bincount(folds[32:]).tolist() == [3, 3, 3] and np.ptp(np.bincount(folds[:32])) <= 4


# States and the verb

OPTIONS = "{properties: vowel manner, layers: 0 2, max_frames: 500, repetitions: 50}"


@pytest.fixture(scope="module")
def recipe(spoken, tmp_path_factory):
    """A tiny model, one adapter, the spoken dev set."""
    root = tmp_path_factory.mktemp("probing")
    tiny_whisper(root / "base")
    folder = make_adapter(root / "base", root / "exp/asr/lora", seed=1, size=0.3)
    register_adapter(root / "exp", "asr", folder, "asr")
    return root


def probe(recipe, spoken, *words, name="probing", options=OPTIONS):
    places = ["--data", spoken.path.parents[1], "--exp-dir", recipe / "exp", "--output-dir", recipe / name]
    options = ["--kind", "probing", "--options", options, "--adapters", "asr", "--device", "cpu"]
    return main(list(map(str, ["analyze", "--model", recipe / "base", *options, *places, *words])))


def test_the_verb_probes_base_and_adapter(recipe, spoken, capsys):
    assert probe(recipe, spoken) == 0
    found = json.loads((recipe / "probing/analysis.json").read_text())
    assert found["systems"] == ["base", "asr"] and found["layers"] == [0, 2]
    assert found["alignment"] == {"asr": "exact"}
    assert found["step_ms"] == 40.0 and found["utterances"] == 48 and 400 < found["frames"] <= 500
    entry = found["properties"]["vowel"]
    assert set(entry["classes"]) == {"vowel", "consonant"} and sum(entry["classes"].values()) == entry["rows"]
    base, own = entry["systems"]["base"], entry["systems"]["asr"]
    assert own["0"]["accuracy"] == base["0"]["accuracy"]  # nothing is adapted before the first block
    assert own["0"]["change_ci"] == [0, 0]
    assert base["0"]["accuracy"] > 0.6  # a random encoder hears loudness and spectrum, too
    assert own["2"]["change"] == pytest.approx(own["2"]["accuracy"] - base["2"]["accuracy"], abs=2e-5)
    rows = list(csv.reader(open(recipe / "probing/accuracy_vowel.csv")))
    assert [row[0] for row in rows] == ["", "base", "asr"] and float(rows[2][2]) == own["2"]["accuracy"]
    assert (recipe / "probing/selectivity.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert probe(recipe, spoken) == 0 and "kept" in capsys.readouterr().out


def test_sets_of_pairs_are_passed_over(recipe, spoken, tmp_path, capsys):
    """Trials have no times of phones: of speaker verification alone there is nothing to probe."""
    ids = sorted(spoken.utterances)[:8]
    trials = [Trial(f"t{n}", ids[n], ids[n + 1], n % 2 == 0) for n in range(6)]
    DataDir(tmp_path / "speaker_ver/dev", {id: spoken.utterances[id] for id in ids}, None, trials).write()
    options = "{properties: vowel, sets: speaker_ver, repetitions: 10}"
    assert probe(recipe, spoken, "--data", tmp_path, "--task", "speaker_ver", name="pairs", options=options) == 1
    assert "no set of speaker_ver has examples of one utterance" in capsys.readouterr().err


def test_other_times_are_another_result(recipe, spoken, capsys):
    write_times(spoken.path, {id: Times((Piece(0.3, 0.4, "s"),)) for id in spoken.utterances})
    try:
        assert probe(recipe, spoken) == 1  # not kept: the files count
        assert "none of vowel, manner has two classes" in capsys.readouterr().err
        write_times(spoken.path, {id: Times((Piece(30.0, 40.0, "s"),)) for id in spoken.utterances})
        assert probe(recipe, spoken) == 1
        other = Times((Piece(0.2, 0.4, "AA1"), Piece(0.4, 0.6, "Q")))
        write_times(spoken.path, dict.fromkeys(spoken.utterances, other))
        capsys.readouterr()
        assert probe(recipe, spoken) == 1 and "no IPA: AA1 Q" in capsys.readouterr().err
        write_times(spoken.path, {"somebody-else": Times((Piece(0.3, 0.4, "s"),))})
        assert probe(recipe, spoken) == 1 and "has no utterance of" in capsys.readouterr().err
    finally:
        for name in ("phones.ctm", "words.ctm"):
            (spoken.path / name).unlink()


@pytest.mark.parametrize("options, message", [
    ("{properties: manners}", "did you mean 'manner'"), ("{folds: 1}", "options.folds"),
    ("{frames: 3}", "options.frames")])
def test_wrong_options_are_named(recipe, spoken, capsys, options, message):
    assert probe(recipe, spoken, name="wrong", options=options) == 2
    assert message in capsys.readouterr().err


def test_positions_have_the_time_they_are_said_to_have(recipe, tmp_path):
    """A click in silence moves the state of one position most; padding is not among the frames."""
    model, task = load_model(recipe / "base", device="cpu"), get_task("asr")
    examples, speakers = [], {}
    for n, seconds in enumerate((0.7, 1.1, 1.6, 2.2, 2.9)):
        samples = np.random.default_rng(n).normal(0, 1e-4, int(seconds * 16000))
        if n == 3:
            samples[16000:16080] += 0.5  # at 1.0025 s
        soundfile.write(tmp_path / f"{n}.wav", samples, 16000)
        examples.append(Example(f"u{n}", (str(tmp_path / f"{n}.wav"),), "x", "en", None, seconds))
    words = (Piece(0.99, 1.02, "click"), Piece(1.2, 1.3, "none"))
    times = {one.id: Times((Piece(0.0, 9.0, "s"),), words) for one in examples}
    sound = Sound("clicks", task, examples, FeatureCache(), times, "files", speakers)
    step = position_seconds(model, [sound], 0)
    assert step == pytest.approx(0.04)
    sample = sample_of(examples[3], sound, model.family, 2.2, step, 1000, seed=0)
    assert sample.frames == list(range(55)) and sample.words[0][2] == "click"
    samples = {("clicks", one.id): sample_of(one, sound, model.family, model.seconds(one), step, 1000, 0)
               for one in examples}
    frames, words = harvest(model, [sound], samples, [0])[0]
    counts = [len(own.frames) for own in samples.values()]
    own = frames[sum(counts[:3]) : sum(counts[:4])]
    quiet = np.median(own, axis=0)
    loudest = int(np.abs(own - quiet).sum(1).argmax())
    first, end, _ = sample.words[0]
    assert abs(loudest * step - 1.0025) <= step / 2 and first <= loudest < end
    place = sum(len(row.words) for row in list(samples.values())[:3])
    assert words[place] == pytest.approx(own[first:end].mean(0), abs=1e-6)
