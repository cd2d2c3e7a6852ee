"""Spoken question answering and speech translation: official rules written down again, tasks, plain files."""
import collections
import json
import re
import string
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json, write_text
from speechmerge.metrics import squad
from speechmerge.metrics.translation import Translation, tokenizer_of
from speechmerge.plain_files import trial_answers, trial_scores
from speechmerge.report.tables import read_results
from speechmerge.scoring import score_split
from speechmerge.tasks import get_task
from test_score import decode, system
from tiny import tiny_tones

ROOT = Path(__file__).resolve().parent.parent
SIGNATURE = f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def script(*words):
    return subprocess.run([str(ROOT / "utils" / words[0]), *map(str, words[1:])], capture_output=True, text=True)


# --- SQuAD

def official_squad(prediction, golds):
    """(EM, F1) by the steps of the v1.1 evaluator, one after the other."""
    def normal(text):
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def overlap(gold):
        given, right = normal(prediction).split(), normal(gold).split()
        common = collections.Counter(given) & collections.Counter(right)
        if sum(common.values()) == 0:
            return 0
        precision, recall = sum(common.values()) / len(given), sum(common.values()) / len(right)
        return 2 * precision * recall / (precision + recall)

    return float(any(normal(prediction) == normal(gold) for gold in golds)), max(overlap(gold) for gold in golds)


def test_squad_rules():
    rng = np.random.default_rng(0)
    words = ["The", "denver", "Broncos", "a", "an", "broncos,", "U.S.", "über", "—", "24–10", "", "an."]
    for _ in range(500):
        prediction, *golds = (" ".join(rng.choice(words, size=rng.integers(0, 5))) for _ in range(rng.integers(2, 5)))
        found = squad.exact_match(prediction, golds), squad.f1(prediction, golds)
        assert found == pytest.approx(official_squad(prediction, golds)), (prediction, golds)


def test_squad_by_hand():
    assert squad.exact_match("the Denver Broncos!", ["Broncos", "Denver Broncos"]) == 1
    assert squad.f1("in Denver Broncos", ["the Broncos"]) == pytest.approx(1 / 2)
    assert (squad.exact_match("the", ["a."]), squad.f1("the", ["a."])) == (1, 0)  # both normalise to nothing
    assert squad.normalise("An apple—the best, of all!") == "apple— best of all"  # only ASCII punctuation goes


@pytest.mark.parametrize("predicted, golds, expected", [
    ((1, 2), [(1.5, 2.5)], (1 / 3, 1 / 2)), ((0, 4), [(1, 2)], (1 / 4, 2 / 5)), ((1, 2), [(1, 2)], (1, 1)),
    ((1, 2), [(2, 3)], (0, 0)), ((1, 2), [(3, 4), (1, 3)], (1 / 2, 2 / 3)), ((2, 2), [(1, 3)], (0, 0)),
    ((3, 1), [(1, 3)], (0, 0)), ((1, 2), [(1.5, 1.5)], (0, 0)), ((1, 2), [], (0, 0))])
def test_time_overlap(predicted, golds, expected):
    assert squad.overlap_scores(predicted, golds) == pytest.approx(expected)


@pytest.fixture
def qa(tmp_path):
    """Two questions share each audio file."""
    folder = tiny_tones(tmp_path / "qa", task="asr", n=4)
    ids = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
    audio = [line.split()[1] for line in (folder / "wav.scp").read_text().splitlines()]
    write_text(folder / "wav.scp", "".join(f"{id} {audio[i // 2]}\n" for i, id in enumerate(ids)))
    write_text(folder / "utt2question", "".join(f"{id} which tone is {'very ' * i}high\n" for i, id in enumerate(ids)))
    write_text(folder / "utt2answers", "".join(f'{id} ["tone {i}", "the tone"]\n' for i, id in enumerate(ids)))
    return folder


def test_qa_task(qa):
    task = get_task("speech_qa")
    examples = task.examples(DataDir.read(qa))
    assert [e.prompt for e in examples][:2] == ["which tone is high", "which tone is very high"]
    assert [task.written(e.target) for e in examples] == [f"tone {i}" for i in range(4)]
    refs = {e.id: e.target for e in examples}
    ids = sorted(refs)
    found = task.score(refs, {ids[0]: "Tone 0.", ids[1]: "tone", ids[2]: "nothing"})
    assert (found["exact_match"], found["f1"], found["n_missing"]) == (pytest.approx(2 / 4), pytest.approx(2 / 4), 1)
    replicates, _ = task.replicates(refs, {id: "Tone." for id in ids})
    assert (replicates == 1).all() and task.metric == "f1" and task.higher_is_better


def test_qa_without_what_it_needs(qa):
    (qa / "utt2question").unlink()
    with pytest.raises(SpeechMergeError, match="utt2question: utterance s0-000 has no question, which the prompt"):
        get_task("speech_qa").examples(DataDir.read(qa))
    write_text(qa / "utt2answers", (qa / "utt2answers").read_text().replace('["tone 0", "the tone"]', "tone"))
    with pytest.raises(SpeechMergeError, match="utt2answers:s0-000: found 'tone', expected a JSON list"):
        get_task("speech_qa").examples(DataDir.read(qa, check=False))


def test_score_qa(tmp_path):
    """Laid out as Spoken-SQuAD: titles, paragraphs without questions, answers that are not in the noisy context."""
    def question(id, *answers):
        return {"answers": [{"answer_start": 9999, "text": text} for text in answers], "question": "Which?", "id": id}

    first = [question("q1", "Levi's Stadium", "Levi's Stadium in Santa Clara"), question("q2", "24–10")]
    paragraphs = [[first, []], [[question("q3", "gold")]]]
    write_json(tmp_path / "test.json", {"version": "1.1", "data": [
        {"title": "t", "paragraphs": [{"context": "c", "qas": qas} for qas in some]} for some in paragraphs]})
    write_json(tmp_path / "pred.json", {"q1": "levis stadium", "q2": "24", "unknown": "x"})
    found = script("score_qa.sh", tmp_path / "test.json", tmp_path / "pred.json", "--output", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    out = read_json(tmp_path / "out")
    assert (out["n"], out["n_missing"]) == (3, 1) and out["exact_match"] == out["f1"] == pytest.approx(1 / 3)
    assert "exact_match          33.33 %" in found.stdout
    write_json(tmp_path / "pred.json", ["x"])
    found = script("score_qa.sh", tmp_path / "test.json", tmp_path / "pred.json")
    assert found.returncode == 1 and "expected one JSON object {question id: answer}" in found.stderr


# --- translation

REFS = ["Der Hund läuft schnell durch den Park.", "Guten Morgen, wie geht es dir?", "Das ist „gut“.", "Ja."]
HYPS = ["Der Hund rennt schnell durch den Park.", "guten Morgen, wie geht es Ihnen?", "Das ist gut.", ""]


def test_bleu_is_that_of_sacrebleu():
    found = Translation(REFS, HYPS)
    assert found.bleu == pytest.approx(sacrebleu.corpus_bleu(HYPS, [REFS]).score / 100) and found.signature == SIGNATURE
    assert found.chrf == pytest.approx(sacrebleu.corpus_chrf(HYPS, [REFS]).score / 100)
    assert found.chrf_signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"
    assert Translation(REFS, [text.lower() for text in REFS]).bleu < 1  # case counts


def test_a_shorter_list_is_refused():
    """sacreBLEU itself would score the first pair and say 100."""
    assert sacrebleu.corpus_bleu(["one two three four"], [["one two three four"], ["x"]]).score == pytest.approx(100)
    with pytest.raises(SpeechMergeError, match="4 references but 1 hypotheses"):
        Translation(REFS, HYPS[:1])


def test_replicates_are_bleu_of_resampled_sets():
    counts = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 4, 0, 0], [0, 0, 2, 2]])
    drawn = [[i for i, times in enumerate(row) for _ in range(times)] for row in counts]
    expected = [sacrebleu.corpus_bleu([HYPS[i] for i in rows], [[REFS[i] for i in rows]]).score / 100 for rows in drawn]
    assert Translation(REFS, HYPS).replicates(counts) == pytest.approx(expected)


def test_tokenizers():
    codes = {"de": "13a", "zh": "zh", "zh-CN": "zh", "ja": "ja-mecab", "ko": "ko-mecab", "sv-SE": "13a", None: "13a"}
    assert {code: tokenizer_of(code) for code in codes} == codes
    found = Translation(["我喜欢音乐"], ["我喜欢唱歌音乐"], "zh")
    assert found.bleu == pytest.approx(sacrebleu.corpus_bleu(["我喜欢唱歌音乐"], [["我喜欢音乐"]], tokenize="zh").score / 100)
    assert "tok:zh" in found.signature and Translation(["我喜欢音乐"], ["我喜欢唱歌音乐"]).bleu == 0
    with pytest.raises(UsageError, match="BLEU tokenizer '14a'"):
        Translation(REFS, HYPS, "14a").bleu


@pytest.fixture
def st(tmp_path):
    folder = tiny_tones(tmp_path / "st", task="asr", n=4)
    ids = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
    write_text(folder / "utt2translation", "".join(f"{id} {text}\n" for id, text in zip(ids, REFS)))
    write_text(folder / "utt2target_lang", "".join(f"{id} de\n" for id in ids))
    return folder


def test_st_task(st):
    task = get_task("st")
    examples = task.examples(DataDir.read(st))
    refs = {e.id: e.target for e in examples}
    assert {e.target_language for e in examples} == {"de"} and {e.prompt for e in examples} == {None}
    hyps = {e.id: hyp for e, hyp in zip(examples, HYPS)}
    found = task.score(refs, hyps)
    assert found["value"] == found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(HYPS, [REFS]).score / 100)
    assert found["signature"] == SIGNATURE and found["n_missing"] == 0
    some = {id: text for id, text in hyps.items() if text}
    assert task.score(refs, some)["value"] == found["value"]  # what is missing is empty
    replicates, _ = task.replicates(refs, hyps)
    assert abs(np.mean(replicates) - found["value"]) < 0.15 and replicates.std() > 0
    write_text(st / "utt2target_lang", (st / "utt2target_lang").read_text().replace(" de", " en", 1))
    with pytest.raises(SpeechMergeError, match="found de and en, expected one target"):
        task.examples(DataDir.read(st))


def test_score_st(tmp_path):
    for name, texts in (("ref", REFS), ("hyp", HYPS)):
        write_text(tmp_path / name, "".join(f"u{i} {text}".rstrip() + "\n" for i, text in enumerate(texts)))
    options = ["--target-lang", "de", "--output", tmp_path / "out"]
    found = script("score_st.sh", tmp_path / "ref", tmp_path / "hyp", *options)
    assert found.returncode == 0, found.stderr
    bleu = sacrebleu.corpus_bleu(HYPS, [REFS]).score
    assert read_json(tmp_path / "out")["bleu"] == pytest.approx(bleu / 100)
    first = found.stdout.splitlines()[0]
    assert first.split()[:2] == ["bleu", f"{bleu:.2f}"] and "%" not in first.split("95 %")[0]
    assert SIGNATURE in found.stdout


def test_interference_delta_of_bleu(tmp_path):
    """Fractions inside, points in tables; a merge between base and adapter lies between -1 and 0."""
    data, exp = tiny_tones(tmp_path / "data/st/test", task="asr", n=24), tmp_path / "exp"
    ids = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    refs = {id: f"{REFS[i % 3]} Satz {i} ist lang" for i, id in enumerate(ids)}
    write_text(data / "utt2translation", "".join(f"{id} {text}\n" for id, text in refs.items()))
    write_text(data / "utt2target_lang", "".join(f"{id} de\n" for id in ids))
    hyps = {"base": {id: "etwas ganz anderes" for id in ids}, "st": refs,
            "m": {id: text if i % 2 else "etwas ganz anderes" for i, (id, text) in enumerate(refs.items())}}
    for (name, rows), kind in zip(hyps.items(), ("base", "adapter", "merged")):
        decode(exp, data, system(exp, name, kind, "st" if kind == "adapter" else None), "st", rows)
    results = score_split(exp, "test")
    bleu = {name: sacrebleu.corpus_bleu([rows[id] for id in ids], [[refs[id] for id in ids]]).score / 100
            for name, rows in hyps.items()}
    merged = next(entry for entry in results["systems"] if entry["name"] == "m")
    assert merged["scores"]["st"]["generation"] == pytest.approx(bleu["m"])
    expected = (bleu["m"] - bleu["st"]) / (bleu["st"] - bleu["base"])
    assert merged["interference_delta"]["st"]["generation"]["value"] == pytest.approx(expected) and -1 < expected < 0
    found = read_results(exp, "test")
    cell = found.cell("generation", "m", "st")
    assert main(["report", "--exp-dir", str(exp), "--output-dir", str(tmp_path / "report")]) == 0
    page, markdown = ((tmp_path / "report" / name).read_text() for name in ("index.html", "RESULTS.md"))
    assert f"<b>{100 * bleu['m']:.1f}</b>" in page and f"| {100 * bleu['m']:.1f} [" in markdown and "BLEU ↑" in markdown
    assert cell.text == f"{100 * bleu['m']:.1f}"
    assert (found.task("st").label, found.task("st").unit) == ("BLEU ↑", "points")


# --- other plain files

def test_folds(tmp_path):
    """Mean of folds (2/2 and 1/4) and pooled (3/6) are different numbers."""
    write_text(tmp_path / "r1", "a x\nb y\n")
    write_text(tmp_path / "h1", "a x\nb y\n")
    write_text(tmp_path / "r2", "a x\nb y\nc x\nd y\n")
    write_text(tmp_path / "h2", "a x\nb x\nc y\nd x\n")
    names = [tmp_path / name for name in ("r1", "h1", "r2", "h2")]
    found = script("score_cls.sh", *names, "--output", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    out = read_json(tmp_path / "out")
    assert (out["mean"]["accuracy"], out["pooled"]["accuracy"]) == (pytest.approx(5 / 8), pytest.approx(3 / 6))
    assert out["pooled"]["n"] == 6 and "mean of folds" in found.stdout and "62.50 %" in found.stdout
    found = script("score_cls.sh", *names[:3])
    assert found.returncode == 2 and "they go by pairs" in found.stderr


@pytest.mark.parametrize("lines, scores", [
    ("t1 a b target\nt2 a c nontarget\n", "t1 2\nt2 1\n"), ("a b target\na c nontarget\n", "a b 2\na c 1\n"),
    ("1 a b\n0 a c\n", "a b 2\na c 1\n")])
def test_trial_lists(tmp_path, lines, scores):
    """Ours, Kaldi's and VoxCeleb's."""
    write_text(tmp_path / "trials", lines)
    write_text(tmp_path / "scores", scores)
    answers, found = trial_answers(tmp_path / "trials"), trial_scores(tmp_path / "scores")
    assert list(answers.values()) == ["yes", "no"] and answers.keys() == found.keys()
    assert "eer                   0.00 %" in script("score_sv.sh", tmp_path / "trials", tmp_path / "scores").stdout
    write_text(tmp_path / "trials", "1 a b\n0 a b\n")
    with pytest.raises(SpeechMergeError, match="trials:2: the trial 'a b' stands there as target and"):
        trial_answers(tmp_path / "trials")


@pytest.mark.parametrize("name", [f"score_{task}.sh" for task in ("asr", "slu", "sv", "st", "qa", "cls")])
def test_scripts_explain_themselves(name):
    found = script(name, "--help")
    assert found.returncode == 0 and f"usage: utils/{name}" in found.stdout and len(found.stdout.splitlines()) == 2


def test_json_of_answers_is_kept_as_it_is(qa):
    text = json.loads(get_task("speech_qa").examples(DataDir.read(qa))[0].target)
    assert text == ["tone 0", "the tone"]
