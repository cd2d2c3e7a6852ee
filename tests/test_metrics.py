"""Metrics against closed forms, hand-made cases and other implementations."""
import re
import string
import warnings

import jiwer
import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.metrics.bootstrap import interval, ratio_replicates, resample, standard_error
from speechmerge.metrics.classification import UNPARSED, classification_scores
from speechmerge.metrics.eer import equal_error_rate, min_dcf
from speechmerge.metrics.interference import (NO_GAIN, interference_delta, log_ratio, oriented, rank, ranking_key,
                                              summary)
from speechmerge.metrics.wer import basic, english, error_rates

HINDI = "हिन्दी में किताबें पढ़ना अच्छा है"


# --- word error rate

def test_wer_counted_by_hand():
    result = error_rates(["the cat sat", "a b c d", "yes"], ["the bat sat on", "a d", "yes"])
    assert result.counts.tolist() == [[2, 1, 0, 1], [2, 0, 2, 0], [1, 0, 0, 0]]
    assert result.wer == pytest.approx(4 / 8)
    assert result.errors.tolist() == [2, 2, 0] and result.words.tolist() == [3, 4, 1]


def test_cer_counts_spaces():
    assert error_rates(["a b"], ["ab"]).cer == pytest.approx(1 / 3)


def test_empty_references_and_hypotheses_count():
    result = error_rates(["", "a b", "c"], ["x y", "a b", ""])
    assert result.wer == pytest.approx(3 / 3) and result.counts[0].tolist() == [0, 0, 0, 2]
    with pytest.raises(SpeechMergeError, match="all references are empty"):
        error_rates(["", " . "], ["x", ""]).wer


def test_lists_of_different_length_are_refused():
    with pytest.raises(SpeechMergeError, match="2 references but 1 hypotheses"):
        error_rates(["a", "b"], ["a"])


def test_corpus_level_is_not_the_mean_of_utterances():
    assert error_rates(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]).wer == pytest.approx(0.1)


def test_basic_normaliser():
    assert basic("  L'è,  PERCHÉ?\tStraße – “Oui”! ") == "l è perché strasse oui"
    assert basic("cafe\u0301") == "café" and basic("\uff21\uff22 ２") == "ab 2"
    assert error_rates(["Hello, world!"], ["hello world"]).wer == 0
    assert error_rates(["Hello, world!"], ["hello world"], "none").wer == 1


def test_vowel_signs_survive():
    assert basic(HINDI + "।") == HINDI
    assert basic("ਪੰਜਾਬੀ ਵਿੱਚ") == "ਪੰਜਾਬੀ ਵਿੱਚ" and basic("తెలుగు పుస్తకం") == "తెలుగు పుస్తకం"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert error_rates([HINDI], ["हिन्दी मे किताब पढ़ना अच्छी है"]).wer == pytest.approx(3 / 6)


def test_spellings_that_look_the_same_are_the_same_word():
    assert basic("क\u093cलम") == basic("\u0958लम")  # nukta apart or composed
    assert basic("क्\u200dष") == basic("क्ष")


def test_a_normaliser_that_strips_marks_warns():
    with pytest.warns(UserWarning, match="'english' removes vowel signs"):
        error_rates([HINDI], [HINDI], "english")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error_rates(["perché", "café"], ["perche", "cafe"], "english")


def test_english_normaliser():
    assert english("I'm twenty-one, don't you know?") == "i am 21 do not you know"


def test_unknown_normaliser():
    with pytest.raises(UsageError, match="did you mean 'basic'"):
        error_rates(["a"], ["a"], "basik")


SENTENCES = {
    "hi": ["हिन्दी में,  किताबें पढ़ना अच्छा है।", "क़लम और कलम।।", "आज-कल मौसम 'अच्छा' है", "।", "Hello दुनिया"],
    "pa": ["ਪੰਜਾਬੀ ਵਿੱਚ ਕਿਤਾਬਾਂ ਪੜ੍ਹਨਾ।", "ਸ਼ਹਿਰ ਵੱਡਾ ਹੈ!", "ਆਓ, ਚੱਲੀਏ", "ਖ਼ਬਰ"],
    "te": ["తెలుగు పుస్తకం చదవడం మంచిది.", "నేను ఇంటికి వెళ్తున్నాను?", "ఒకటి-రెండు", "సరే"],
    "ur": ["یہ ایک کتاب ہے۔", "آپ کیسے ہیں؟", "میں ٹھیک ہوں۔"],
}


def vistaar(references, hypotheses, language):
    """(WER, CER) by the steps of Vistaar's evaluation script, one after the other."""
    from indicnlp.normalize.indic_normalize import IndicNormalizerFactory

    def clean(text):
        text = "".join(c for c in text if c not in string.punctuation + "।۔'-॥")
        if language != "ur":
            text = IndicNormalizerFactory().get_normalizer(language).normalize(text)
        return re.sub(" +", " ", text)

    refs, hyps = [clean(text) or "<empty>" for text in references], [clean(text) for text in hypotheses]
    return jiwer.wer(refs, hyps), jiwer.cer(refs, hyps)


@pytest.mark.parametrize("language", SENTENCES)
def test_indic_normaliser_is_vistaars(language):
    rng = np.random.default_rng(0)
    for _ in range(20):
        refs = [str(text) for text in rng.choice(SENTENCES[language], size=6)]
        hyps = [" ".join(rng.permutation(text.split())[: rng.integers(0, 6)]) for text in refs]
        found = error_rates(refs, hyps, "indic", [language] * 6)
        assert (found.wer, found.cer) == pytest.approx(vistaar(refs, hyps, language))


def test_indic_normaliser_joins_at_deleted_marks_and_keeps_case():
    found = error_rates(["आज-कल Hello", "।"], ["आजकल hello", "x"], "indic", ["hi", "hi"])
    assert found.references == ["आजकल Hello", "<empty>"] and found.empty_references == 1
    assert found.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
    assert error_rates(["\u0915\u093cलम"], ["\u0958लम"], "indic", ["hi"]).wer == 0  # nukta apart or composed
    assert error_rates(["L'è Vero!"], ["l è vero"], "indic", ["it"]).wer == 0  # not an Indic language: basic
    with pytest.raises(SpeechMergeError, match="normaliser indic: an utterance without a language"):
        error_rates(["a"], ["a"], "indic")


@pytest.mark.parametrize("references, hypotheses, expected", [
    (["", "a b"], ["x", "a b"], 1 / 2), (["", "a b"], ["", "a b"], 0), (["", "a"], ["x y z", "b"], 4)])
def test_insertions_of_empty_references_count(references, hypotheses, expected):
    found = error_rates(references, hypotheses)
    assert found.wer == expected == jiwer.wer(references, hypotheses) and found.empty_references == 1


def test_tabs_separate_words():
    """jiwer takes `a<tab>b` for one word."""
    assert jiwer.wer("a b", "a\tb") == 1 and error_rates(["a b"], ["a\tb"], "none").wer == 0


@pytest.mark.parametrize("right, wrong, errors, words", [
    (HINDI, "हिन्दी मे किताब पढ़ना अच्छी है", 3, 6), ("ਮੈਂ ਕਿਤਾਬ ਪੜ੍ਹੀ ਹੈ", "ਮੈ ਕਿਤਾਬ ਪੜ੍ਹਾ ਹੈ", 2, 4)])
def test_errors_in_vowel_signs_count(right, wrong, errors, words):
    """Whisper's English normaliser makes them right, which is why it warns."""
    for name in ("none", "basic", "indic"):
        assert error_rates([right], [wrong], name, ["hi"]).wer == pytest.approx(errors / words)
    with pytest.warns(UserWarning, match="removes vowel signs"):
        assert error_rates([right], [wrong], "english").wer == 0


# --- classification

def test_recall_is_averaged_over_the_classes_of_the_references():
    """A label that is only predicted has no recall: 3/4, where a macro average over all labels seen says 1/2."""
    from sklearn.metrics import balanced_accuracy_score, recall_score

    refs, hyps = list("aabb"), list("acbb")
    found = classification_scores(refs, hyps, list("abc"))
    assert found["uar"] == pytest.approx(3 / 4) == balanced_accuracy_score(refs, hyps)
    assert recall_score(refs, hyps, average="macro", zero_division=0) == pytest.approx(1 / 2)


def test_classification_by_hand():
    found = classification_scores(list("aaabbc"), ["a", "a", "b", "b", None, "c"], list("abcd"))
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["uar"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 1) / 3)
    assert found["confusion"]["columns"] == ["a", "b", "c", "d", UNPARSED]
    assert found["confusion"]["counts"] == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_labels_nobody_has_do_not_lower_the_averages():
    found = classification_scores(["a", "b"], ["a", "b"], ["a", "b", "c"])
    assert (found["uar"], found["macro_f1"]) == (1, 1)


def test_reference_outside_the_label_set():
    with pytest.raises(SpeechMergeError, match="reference label 'x' is not in the label set"):
        classification_scores(["x"], ["a"], ["a"])


# --- equal error rate

HAND_MADE = [
    ([3, 2, 1, 0], [1, 1, 0, 0], 0.0),
    ([0, 1, 2, 3], [1, 1, 0, 0], 1.0),
    ([4, 3, 2, 1], [1, 0, 1, 0], 0.5),
    ([1, 1, 0, 0], [1, 0, 1, 0], 0.5),  # two ties, each half right
    ([0, 0, 0, 0], [1, 0, 1, 0], 0.5),  # no information
    ([5, 4, 3, 2, 1], [1, 1, 0, 1, 0], 1 / 3),
    ([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], 3 / 7),  # from (fa 0, miss 1) straight to (fa 1/2, miss 1/3): t = 6/7
]


@pytest.mark.parametrize("scores, targets, expected", HAND_MADE)
def test_eer_of_hand_made_trials(scores, targets, expected):
    assert equal_error_rate(scores, targets) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_eer_is_the_crossing_of_the_interpolated_roc(seed):
    rng = np.random.default_rng(seed)
    targets = rng.random(200) < 0.4
    scores = np.round(rng.normal(targets, 1), 1)  # many ties
    alarms, hits, _ = roc_curve(targets, scores, drop_intermediate=False)
    expected = brentq(lambda x: 1 - x - interp1d(alarms, hits)(x), 0, 1)
    assert equal_error_rate(scores, targets) == pytest.approx(expected, abs=1e-6)


def test_eer_does_not_depend_on_order_or_on_a_rising_transform():
    rng = np.random.default_rng(0)
    targets, scores = rng.random(50) < 0.5, np.round(rng.normal(size=50), 1)
    order = rng.permutation(50)
    assert equal_error_rate(scores[order], targets[order]) == equal_error_rate(np.exp(scores), targets)


def test_weights_are_repeated_trials():
    rng = np.random.default_rng(1)
    scores, targets = np.round(rng.normal(size=30), 1), np.arange(30) % 2 == 0
    counts = rng.integers(0, 4, size=(6, 30))
    repeated = [equal_error_rate(np.repeat(scores, row), np.repeat(targets, row)) for row in counts]
    np.testing.assert_allclose(equal_error_rate(scores, targets, counts), repeated)


def test_eer_refuses_what_it_cannot_judge():
    with pytest.raises(SpeechMergeError, match="one finite score"):
        equal_error_rate([0.1, np.nan], [1, 0])
    with pytest.raises(SpeechMergeError, match="found 2 target and 0 nontarget trials"):
        equal_error_rate([0.1, 0.2], [1, 1])


def test_min_dcf():
    assert min_dcf([3, 2, 1, 0], [1, 1, 0, 0]) == 0
    assert min_dcf([0, 1, 2, 3], [1, 1, 0, 0]) == 1  # the trivial system is better
    assert min_dcf([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx(0.5)  # accept one target: 0.01 * 0.5 / 0.01
    assert min_dcf([5, 4, 4, 4, 1], [0, 1, 1, 1, 0], p_target=0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("p_target", [0.01, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_min_dcf_by_its_formula(seed, p_target):
    """min_t (p P_miss + (1-p) P_fa) / min(p, 1-p), every threshold tried by counting."""
    rng = np.random.default_rng(seed)
    targets = rng.random(150) < 0.3
    scores = np.round(rng.normal(2 * targets, 1), 1)
    costs = [p_target * np.mean(scores[targets] < t) + (1 - p_target) * np.mean(scores[~targets] >= t)
             for t in [*np.unique(scores), np.inf]]
    assert min_dcf(scores, targets, p_target) == pytest.approx(min(costs) / p_target)


# --- bootstrap

def test_resampling_draws_whole_speakers():
    groups = [f"s{i // 4}" for i in range(40)]
    counts, unit = resample(groups, 50, seed=1)
    assert unit == "speaker" and counts.shape == (50, 40) and (counts.sum(axis=1) == 40).all()
    assert (counts.reshape(50, 10, 4) == counts.reshape(50, 10, 4)[:, :, :1]).all()


@pytest.mark.parametrize("groups", [[None] * 9, ["a", "b"] * 5, ["a", "b", "c", "d", "e", None]])
def test_utterances_are_drawn_where_speakers_are_unknown_or_few(groups):
    counts, unit = resample(groups, 20, seed=0)
    assert unit == "utterance" and (counts.sum(axis=1) == len(groups)).all()


def test_resampling_depends_on_the_seed_alone():
    same = [resample([None] * 8, 30, seed=seed)[0] for seed in (0, 0, 1)]
    assert (same[0] == same[1]).all() and (same[0] != same[2]).any()


def test_standard_error_of_a_proportion():
    right = np.arange(400) % 4 == 0
    counts, _ = resample([None] * 400, 4000, seed=0)
    replicates = ratio_replicates(right, np.ones(400), counts)
    assert standard_error(replicates) == pytest.approx(np.sqrt(0.25 * 0.75 / 400), rel=0.05)


def test_intervals_cover_the_truth():
    """95 % intervals of accuracy 0.7 on 200 utterances, 200 experiments: about 190 cover (binomial: 3 sd are 9)."""
    rng = np.random.default_rng(0)
    counts, _ = resample([None] * 200, 400, seed=0)
    covered = 0
    for _ in range(200):
        low, high = interval(ratio_replicates(rng.random(200) < 0.7, np.ones(200), counts))
        covered += low <= 0.7 <= high
    assert covered >= 180


def test_speakers_that_differ_widen_the_interval():
    right = np.repeat(np.arange(20) % 2, 20)  # each speaker all right or all wrong
    by_speaker, by_utterance = (
        standard_error(ratio_replicates(right, np.ones(400), resample(groups, 2000, seed=0)[0]))
        for groups in ([i // 20 for i in range(400)], [None] * 400))
    assert by_speaker == pytest.approx(np.sqrt(0.25 / 20), rel=0.1) and by_utterance == pytest.approx(0.025, rel=0.1)


def test_pairing_removes_what_two_systems_share():
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.5
    second = first.copy()
    second[:10] = ~second[:10]
    counts, _ = resample([None] * 500, 1000, seed=0)
    a, b = (ratio_replicates(system, np.ones(500), counts) for system in (first, second))
    assert standard_error(a - b) < 0.4 * np.hypot(standard_error(a), standard_error(b))


# --- interference_delta

@pytest.mark.parametrize("base, single, merged, expected", [
    (84.16, 40, 50, -0.2264), (143.4, 60, 90, -0.3597), (84.16, 40, 100, -1.3587)])
def test_golden_interference_deltas_of_word_error_rates(base, single, merged, expected):
    u = [oriented(value, higher_is_better=False) for value in (merged, single, base)]
    assert interference_delta(*u) == (pytest.approx(expected, abs=5e-5), "ok")
    fractions = [value / 100 for value in u]
    assert interference_delta(*fractions)[0] == pytest.approx(expected, abs=5e-5)


def test_fixed_points():
    assert interference_delta(0.9, 0.9, 0.4) == (0, "ok")
    assert interference_delta(0.4, 0.9, 0.4)[0] == pytest.approx(-1)
    assert interference_delta(1.0, 0.9, 0.4)[0] == pytest.approx(0.2)


@pytest.mark.parametrize("single, base, se", [(0.691, 0.691, None), (0.5, 0.6, None), (0.62, 0.6, 0.011)])
def test_no_gain_is_undefined(single, base, se):
    assert interference_delta(0.65, single, base, se) == (None, NO_GAIN)


def test_gain_above_noise_is_defined():
    assert interference_delta(0.61, 0.62, 0.6, 0.009)[0] == pytest.approx(-0.5)


def test_log_ratio_points_up_for_better_merges():
    assert log_ratio(0.1, 0.2, higher_is_better=False) > 0 > log_ratio(0.1, 0.2, higher_is_better=True)
    assert log_ratio(0.3, 0.3, True) == 0


def test_ranking_is_max_min_then_leximin_then_mean():
    systems = {"worst": {"a": -0.9, "b": 0.1}, "best": {"a": -0.2, "b": -0.3}, "second": {"a": -0.4, "b": -0.3},
               "lexi": {"a": -0.9, "b": 0.2}, "unscored": {"a": -0.1, "b": None}}
    del systems["unscored"]
    assert rank(systems) == ["best", "second", "lexi", "worst"]
    assert ranking_key({"a": 0.1, "b": None, "c": -0.5}) == (-0.5, 0.1, pytest.approx(-0.2))
    assert ranking_key({"a": None}) < ranking_key({"a": -100.0})


def test_ranking_compares_on_shared_tasks():
    assert rank({"x": {"a": -0.5, "b": 0.9}, "y": {"a": -0.4, "b": None}}) == ["y", "x"]
    assert rank({}) == [] and rank({"b": {"t": None}, "a": {"t": None}}) == ["a", "b"]


def test_summary_counts_harmed_tasks():
    assert summary({"a": -1.2, "b": 0.2, "c": None}) == {"min": -1.2, "mean": pytest.approx(-0.5), "harmed": 1,
                                                         "defined": 2}
    assert summary({"c": None}) == {"min": None, "mean": None, "harmed": 0, "defined": 0}
