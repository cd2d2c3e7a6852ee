"""Tasks: examples, reading of hypotheses, scores with missing and unreadable answers."""
import numpy as np
import pytest

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import write_text
from speechmerge.tasks import TASKS, get_task
from speechmerge.tasks.base import canonical
from tiny import tiny_tones

NAMES = ["asr", "emotion", "intent", "kws", "langid", "speaker_id", "speaker_ver"]


@pytest.fixture(params=NAMES)
def task(request):
    return get_task(request.param)


def read(tmp_path, name):
    return DataDir.read(tiny_tones(tmp_path / name, task=name, n=12))


def test_all_tasks_are_registered():
    assert set(NAMES) <= set(TASKS.names())
    with pytest.raises(UsageError, match="did you mean 'emotion'"):
        get_task("emotions")


def test_examples(task, tmp_path):
    data = read(tmp_path, task.name)
    examples, labels = task.examples(data), task.labels(data)
    assert [e.id for e in examples] == sorted(e.id for e in examples)
    assert {len(e.audio) for e in examples} == {2 if task.kind == "verification" else 1}
    assert all(e.duration > 0 and e.speaker for e in examples)
    assert labels is None if task.kind == "transcription" else {e.target for e in examples} == set(labels)


def test_right_answers_score_perfectly_and_wrong_ones_do_not(task, tmp_path):
    data = read(tmp_path, task.name)
    refs = {e.id: e.target for e in task.examples(data)}
    labels = task.labels(data)
    others = {ref: next(x for x in labels or ["something else"] if x != ref) for ref in set(refs.values())}
    perfect = task.score(refs, refs, labels=labels)
    wrong = task.score(refs, {id: others[ref] for id, ref in refs.items()}, labels=labels)
    best, worst = (1, 0) if task.higher_is_better else (0, 1)
    assert perfect["value"] == best and abs(wrong["value"] - best) >= abs(worst - best)
    assert perfect["n"] == len(refs) and perfect["n_missing"] == perfect["n_unparsed"] == 0
    assert perfect["metric"] == task.metric and perfect[task.metric] == perfect["value"]


def test_missing_hypotheses_are_errors_and_unknown_ids_are_refused(task, tmp_path):
    refs = {e.id: e.target for e in task.examples(read(tmp_path, task.name))}
    hyps = dict(list(refs.items())[1:])
    found = task.score(refs, hyps)
    assert found["n_missing"] == 1 and found["n"] == len(refs)
    assert found["value"] != task.score(refs, refs)["value"]
    with pytest.raises(SpeechMergeError, match="hypothesis 'zz' is not in the references"):
        task.score(refs, {**hyps, "zz": "yes"})
    with pytest.raises(SpeechMergeError, match="no references"):
        task.score({}, {})


def test_replicates_scatter_around_the_value(task, tmp_path):
    data = read(tmp_path, task.name)
    refs = {e.id: e.target for e in task.examples(data)}
    rng = np.random.default_rng(0)
    pool = task.labels(data) or ["yes", "no"]
    hyps = {id: ref if rng.random() < 0.7 else str(rng.choice(pool)) for id, ref in refs.items()}
    replicates, unit = task.replicates(refs, hyps)
    assert replicates.shape == (1000,) and unit == "utterance"
    assert np.nanmean(replicates) == pytest.approx(task.score(refs, hyps)["value"], abs=0.05)
    again, _ = task.replicates(refs, hyps)
    np.testing.assert_array_equal(replicates, again)


@pytest.mark.parametrize("text, label", [
    ("lights on", "lights_on"), (" Lights-On. ", "lights_on"), ("LIGHTS ON!", "lights_on"), ("lights", None),
    ("", None), ("...", None), ("lights on please", None)])
def test_reading_of_labels(text, label):
    task = get_task("intent")
    assert task.read(["u"], {"u": text}, ["lights_on", "play"]) == [label]


def test_unparsed_answers_are_counted_and_wrong():
    found = get_task("kws").score({"a": "yes", "b": "no", "c": "no"}, {"a": "yes", "b": "banana"}, labels=["no", "yes"])
    assert (found["n_unparsed"], found["n_missing"], found["accuracy"]) == (1, 1, pytest.approx(1 / 3))


def test_canonical_form_keeps_vowel_signs():
    assert canonical("हिन्दी।") == "हिन्दी" and canonical("Straße_1") == "strasse 1"


def test_labels_come_from_the_closed_set_of_the_data(tmp_path):
    data = tiny_tones(tmp_path / "kws", task="kws", n=6)
    write_text(data / "labels", "stop\nno\nyes\nnever\n")
    assert get_task("kws").labels(DataDir.read(data)) == ["stop", "no", "yes", "never"]
    write_text(data / "labels", "stop\nno\n")
    with pytest.raises(SpeechMergeError, match="utt2keyword:s0-000: label 'yes' is not in"):
        get_task("kws").examples(DataDir.read(data, check=False))
    write_text(data / "labels", "stop\nno\nyes\nYes!\n")
    with pytest.raises(SpeechMergeError, match="'yes' and 'Yes!' are the same label"):
        get_task("kws").labels(DataDir.read(data))


def test_data_of_another_task(tmp_path):
    data = DataDir.read(tiny_tones(tmp_path / "kws", task="kws", n=3))
    with pytest.raises(SpeechMergeError, match="utt2intent: no label for utterance s0-000.*for the task intent"):
        get_task("intent").examples(data)
    with pytest.raises(SpeechMergeError, match="trials: no trials"):
        get_task("speaker_ver").examples(data)
    (tmp_path / "kws" / "text").unlink()
    with pytest.raises(SpeechMergeError, match="text: no transcript for utterance s0-000"):
        get_task("asr").examples(DataDir.read(tmp_path / "kws"))


def test_asr_breakdown():
    refs = {"a": "one two three", "b": "हिन्दी में", "c": "..."}
    hyps = {"a": "one too three four", "b": "हिन्दी मे"}
    speakers, languages = {"a": "s1", "b": "s2", "c": "s2"}, {"a": "en", "b": "hi", "c": "fr"}
    found = get_task("asr").score(refs, hyps, speakers=speakers, languages=languages)
    assert found["value"] == found["wer"] == pytest.approx(3 / 5)
    assert (found["substitutions"], found["deletions"], found["insertions"], found["hits"]) == (2, 0, 1, 3)
    assert (found["empty_references"], found["n_missing"], found["words"]) == (1, 1, 5)
    assert found["per_language"] == {"en": pytest.approx(2 / 3), "hi": pytest.approx(1 / 2)}
    assert found["per_speaker"] == {"s1": pytest.approx(2 / 3), "s2": pytest.approx(1 / 2)}


def test_verification_is_decided_by_its_scores():
    task = get_task("speaker_ver")
    refs = {"1": "yes", "2": "yes", "3": "no", "4": "no"}
    scores = {"1": 2.0, "2": 0.5, "3": 1.0, "4": -3.0}
    found = task.score(refs, {"1": "yes", "2": "no", "3": "no", "4": "?"}, scores=scores)
    assert found["value"] == found["eer"] == pytest.approx(0.5)
    assert (found["accuracy"], found["n_unparsed"], found["n_target"]) == (0.5, 1, 2)
    assert task.score(refs, {}, scores={**scores, "2": 1.5})["value"] == 0
    with pytest.raises(SpeechMergeError, match="trial '4' has no score"):
        task.score(refs, refs, scores={id: scores[id] for id in "123"})


def test_yes_and_no_without_scores_are_one_operating_point():
    """misses 1/2, false alarms 1/4: the line from (0, 1) through (1/4, 1/2) to (1, 0) crosses the diagonal at 0.4."""
    refs = dict(zip("abcdef", ["yes", "yes", "no", "no", "no", "no"]))
    hyps = dict(zip("abcdef", ["yes", "no", "yes", "no", "no", "no"]))
    assert get_task("speaker_ver").score(refs, hyps)["value"] == pytest.approx(0.4)


def test_only_tasks_that_do_not_ask_for_the_language_may_be_told_it():
    assert not get_task("langid").uses_language and get_task("asr").uses_language


@pytest.mark.parametrize("name", ["asr", "kws", "speaker_ver"])
def test_other_metrics_are_resampled_like_the_deciding_one(name, tmp_path):
    """Each replicate is the metric of the utterances that were drawn."""
    task, data = get_task(name), read(tmp_path, name)
    refs = {e.id: e.target for e in task.examples(data)}
    rng = np.random.default_rng(1)
    hyps = {id: ref if rng.random() < 0.6 else "no" for id, ref in refs.items()}
    scores = {id: float(np.round(rng.normal(), 1)) for id in refs} if name == "speaker_ver" else None
    counts, _ = task.resampled(refs, None, 4, 7)
    found = task.more_replicates(refs, hyps, counts, scores=scores)
    assert set(found) == {"asr": {"cer"}, "kws": {"uar", "macro_f1"}, "speaker_ver": {"min_dcf", "min_dcf_0.05"}}[name]
    for row, drawn in enumerate(counts):
        ids = {f"{id}-{copy}": id for id, times in zip(sorted(refs), drawn) for copy in range(times)}
        score = task.score({new: refs[id] for new, id in ids.items()}, {new: hyps[id] for new, id in ids.items()},
                           scores=scores and {new: scores[id] for new, id in ids.items()}, labels=task.labels(data))
        for metric, values in found.items():
            assert values[row] == pytest.approx(score[metric]), metric
