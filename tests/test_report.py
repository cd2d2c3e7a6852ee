"""The report against a made-up exp/ folder whose numbers are known, and against what goes wrong in real ones."""
import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import soundfile

from fake_exp import MERGES, TASKS, write_fake_exp
from speechmerge.cli import main
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json
from speechmerge.report import colours
from speechmerge.report.contents import gather_examples
from speechmerge.report.examples import align, group_of, pick
from speechmerge.report.origin import base_source, shorten
from speechmerge.report.summaries import choose_merge, merge_summaries, scale_curves, summarize
from speechmerge.report.tables import read_results
from speechmerge.report.tradeoffs import pareto
from speechmerge.report.wording import percent, short_names, signed

VOID = {"meta", "link", "img", "br", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Checks that every tag is closed in order and collects tags with their attributes and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.stack, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-1:]} at {self.getpos()}"
        self.stack.pop()

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words)).replace("_ ", "_")

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def report(root, monkeypatch, *options) -> int:
    monkeypatch.chdir(root)
    return main(["report", "--exp-dir", "exp", "--data", "data", "--output-dir", "exp/report", *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(root, text of the page): the report of the whole made-up experiment; tests do not change it."""
    root = write_fake_exp(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        assert report(root, patch, "--max-examples", "3") == 0
    return root, (root / "exp/report/index.html").read_text(encoding="utf-8")


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the made-up experiment that a test may damage."""
    shutil.copytree(made[0] / "exp", tmp_path / "exp")
    shutil.copytree(made[0] / "data", tmp_path / "data")
    return tmp_path


def error_of(root, monkeypatch, capsys, *options) -> str:
    assert report(root, monkeypatch, *options) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    return lines[-1]


def test_page_is_well_formed_and_names_everything(made):
    page = Page(made[1])
    for name in ("base", *TASKS, *MERGES):
        assert name in page.text.replace(" ", "") or name in page.text
    assert page.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in page.all("img"))
    assert all(audio.get("aria-label") for audio in page.all("audio"))


def test_page_loads_nothing(made):
    page = Page(made[1])
    for tag, attrs in page.tags:
        for key in ("src", "href", "srcset", "data", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[A-Za-z0-9+/=]+", "", made[1]))


def test_cells_hold_the_scores(made):
    root, text = made
    cells = {
        (attrs["data-system"], attrs["data-task"]): attrs for attrs in Page(text).all("td") if "data-system" in attrs
    }
    scores = read_json(root / "exp/scores_test.json")
    shown = Page(text).text.replace("\N{NO-BREAK SPACE}", " ")
    for system in scores["systems"]:
        for task, score in system["scores"].items():
            assert percent(score["generation"]) in shown
            if score["labels"] is None:
                continue
            attrs = cells[
                system["name"], task
            ]  # the label table comes later in the page than the one of generation ...
            if system["kind"] == "merged":  # ... but adapters come a third time, by generation
                assert float(attrs["data-sort"]) == score["labels"]
                delta = system["interference_delta"][task]["labels"]["value"]
                assert attrs["data-delta"] == ("" if delta is None else repr(delta))


def test_csv_and_markdown_hold_the_scores(made):
    root, _ = made
    scores = {system["name"]: system for system in read_json(root / "exp/scores_test.json")["systems"]}
    with open(root / "exp/report/heatmap_generation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scores) * len(TASKS)
    for row in rows:
        assert float(row["value"]) == scores[row["system"]]["scores"][row["task"]]["generation"]
    markdown = (root / "exp/report/RESULTS.md").read_text(encoding="utf-8")
    line = next(line for line in markdown.split("\n") if line.startswith("| `uniform` |"))
    assert [cell.split(" [")[0].strip() for cell in line.strip("|").split("|")[1:]] == [
        percent(scores["uniform"]["scores"][task]["generation"]) for task in TASKS]
    assert "python -m speechmerge merge --method ties" in markdown and "abc123def456" in markdown


def test_every_plot_is_a_file_with_its_numbers(made):
    names = {path.stem for path in (made[0] / "exp/report").glob("*.png")}
    assert names == {"heatmap_generation", "heatmap_labels", "frontier", "scale", "wer_breakdown", "cross_task",
                     *(f"bars_{task}" for task in TASKS)}
    for name in names:
        assert (made[0] / f"exp/report/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((made[0] / f"exp/report/{name}.csv").read_text().split("\n")) > 2


def test_kept_share_by_hand(made):
    """The mean over the four defined tasks of (u_merged - u_base) / (u_single - u_base), from score.json alone."""
    root, _ = made
    def value(system, task):
        return read_json(root / f"exp/decode/test/{system}/{task}/score.json")["generation"]["value"]

    shares = [(value("uniform", task) - value("base", task)) / (value(task, task) - value("base", task))
              for task in TASKS if task != "emotion"]
    results = read_results(root / "exp", "test")
    summary = summarize(results, next(s for s in results.systems if s.name == "uniform"), "generation")
    assert summary.kept == pytest.approx(sum(shares) / 4, abs=1e-12)
    assert summary.worst == pytest.approx(min(shares) - 1, abs=1e-12)
    assert list(summary.undefined) == ["emotion"]


def test_word_errors_add_up(made):
    with open(made[0] / "exp/report/wer_breakdown.csv", newline="") as file:
        for row in csv.DictReader(file):
            errors = sum(int(row[key]) for key in ("substitutions", "deletions", "insertions"))
            assert errors / int(row["words"]) == pytest.approx(float(row["wer"]), abs=1e-12)


def test_the_best_merge_is_chosen_on_dev(copy, monkeypatch):
    """A merge that is best on test only must not be the one the findings speak of."""
    path = copy / "exp/scores_dev.json"
    scores = read_json(path)
    for system in scores["systems"]:
        if system["kind"] == "merged":
            for readings in system["interference_delta"].values():
                readings["generation"] = {"value": -0.1 if system["name"] == "dare_p0.5" else -0.9, "reason": None}
    scores["ranking"]["generation"].sort(key=lambda name: name != "dare_p0.5")
    write_json(path, scores)
    best = choose_merge(read_results(copy / "exp", "test"), read_results(copy / "exp", "dev"))
    assert best.system.name == "dare_p0.5"
    assert choose_merge(read_results(copy / "exp", "test"), None).system.name == "task_arithmetic_scale0.4"
    path.unlink()
    assert report(copy, monkeypatch, "--max-examples", "0") == 0
    assert "worst task on test itself" in (copy / "exp/report/index.html").read_text()


def test_merges_are_ranked_by_their_worst_task(made):
    ranked = merge_summaries(read_results(made[0] / "exp", "test"), "generation")
    assert [s.worst for s in ranked] == sorted((s.worst for s in ranked), reverse=True)
    assert ranked[-1].system.name == "task_arithmetic_scale1" and "kws" in ranked[-1].harmed
    front = pareto(ranked)
    assert ranked[0] in front and ranked[-1] not in front


def test_scale_curve(made):
    curves = scale_curves(read_results(made[0] / "exp", "test"), "generation")
    assert {title: [scale for scale, _ in points] for title, points in curves.items()} == {
        "scale of task_arithmetic": [0.4, 0.7, 1.0]
    }


def test_undefined_delta_says_why(made):
    text = Page(made[1]).text
    assert "Δ undefined" in text
    assert "Δ of emotion is undefined: the single adapter gains no more than noise over the base" in text


def test_audio_is_inside_and_decodes(made):
    players = Page(made[1]).all("audio")
    assert len(players) == 3 * (len(TASKS) - 1) + 3 * 2  # verification: two utterances a trial
    for attrs in players:
        header, _, content = attrs["src"].partition(",")
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content, validate=True)))
        assert header in ("data:audio/mpeg;base64", "data:audio/flac;base64")
        assert rate == 16000 and samples.ndim == 1 and len(samples) == pytest.approx(0.6 * rate, rel=0.1)
        assert abs(samples).max() > 0.2


def test_audio_beyond_the_limit_is_left_out_and_said(copy, monkeypatch):
    assert report(copy, monkeypatch, "--max-page-mb", "0.5") == 0
    text = (copy / "exp/report/index.html").read_text()
    assert len(text) < 0.6e6 and "was left out to keep the page below 0.5 MB" in text


def test_markup_in_transcripts_and_names_is_text(copy, monkeypatch):
    path = copy / "exp/decode/test/base/asr/hyp"
    attack = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)>"
    path.write_text("".join(f"{line.split()[0]} {attack}\n" for line in path.read_text().splitlines()))
    texts = copy / "data/asr/test/text"
    texts.write_text("".join(f"{line.split()[0]} <b>{attack}\n" for line in texts.read_text().splitlines()))
    for split in ("dev", "test"):
        scores = read_json(copy / f"exp/scores_{split}.json")
        next(s for s in scores["systems"] if s["name"] == "uniform")["method"] = "<script>alert(3)</script>"
        write_json(copy / f"exp/scores_{split}.json", scores)
    assert report(copy, monkeypatch) == 0
    page = Page((copy / "exp/report/index.html").read_text())
    assert len(page.all("script")) == 1 and not any("onerror" in attrs for _, attrs in page.tags)
    assert all(image["src"].startswith("data:image/png") for image in page.all("img"))
    assert attack in page.text and "<script>alert(3)</script>" in page.text


def test_single_system(tmp_path, monkeypatch):
    root = write_fake_exp(tmp_path, utterances=6, adapters=(), merges=(), splits=("test",))
    assert report(root, monkeypatch) == 0
    page = Page((root / "exp/report/index.html").read_text())
    assert "No merge was scored" in page.text and "base" in page.text


def test_one_adapter_without_merges(tmp_path, monkeypatch):
    root = write_fake_exp(tmp_path, utterances=6, adapters=("asr",), merges=(), splits=("test",))
    assert report(root, monkeypatch) == 0
    assert "1 of 1" in Page((root / "exp/report/index.html").read_text()).text


@pytest.mark.parametrize("missing", ["scores_test.json", "decode/test/uniform/kws/score.json"])
def test_missing_scores_name_the_command(copy, monkeypatch, capsys, missing):
    (copy / "exp" / missing).unlink()
    message = error_of(copy, monkeypatch, capsys)
    assert f"exp/{missing}: not there" in message and "run speechmerge score --exp-dir exp --split test" in message


def examples_of(root, monkeypatch):
    monkeypatch.chdir(root)
    return gather_examples(read_results("exp", "test"), None, "data", count=1, room=1_000_000)


def test_missing_hypotheses_name_the_command(copy, monkeypatch):
    (copy / "exp/decode/test/uniform/kws/hyp").unlink()
    with pytest.raises(SpeechMergeError, match="uniform/kws/hyp: not there; run `speechmerge decode` first"):
        examples_of(copy, monkeypatch)


def test_missing_data_names_the_folder(copy, monkeypatch):
    shutil.rmtree(copy / "data/kws/test")
    with pytest.raises(SpeechMergeError, match="data/kws/test: no such data directory"):
        examples_of(copy, monkeypatch)


def test_hypotheses_of_other_data_are_refused(copy, monkeypatch):
    with open(copy / "exp/decode/test/uniform/kws/hyp", "a") as file:
        file.write("stranger yes\n")
    with pytest.raises(SpeechMergeError, match=r"'stranger' is not in the data \(1 such ids\)"):
        examples_of(copy, monkeypatch)


def test_old_scores_are_refused(copy, monkeypatch, capsys):
    path = copy / "exp/decode/test/uniform/kws/score.json"
    score = read_json(path)
    write_json(path, {**score, "generation": {**score["generation"], "value": 0.123}})
    assert "generation value 0.123 differs from" in error_of(copy, monkeypatch, capsys)


def test_systems_scored_on_different_sets_are_refused(copy, monkeypatch, capsys):
    path = copy / "exp/decode/test/uniform/kws/score.json"
    write_json(path, {**read_json(path), "n": 7})
    message = error_of(copy, monkeypatch, capsys)
    assert "'kws': systems were scored differently" in message and "n=7" in message


def test_resolved_settings_and_commands_are_on_the_page(made):
    text = Page(made[1]).text
    assert '"rank": 8' in text
    for command in (
        "train --task kws",
        "merge --method dare",
        "decode --system base --split test",
        "score --split test",
        "report",
    ):
        assert f"python -m speechmerge {command}" in text or command == "report"


def test_alignment_marks():
    segments, errors = align("turn the lamp on", "Turn, a lamp now on", str.casefold)
    assert errors == 3  # "turn," and "a" are substituted, "now" is inserted: case is folded, punctuation is not, here
    assert [s.kind for s in segments] == ["sub", "sub", "ok", "ins", "ok"] and segments[1].note == "the"
    assert align("a b", "", str)[1] == 2 and align("", "a", str)[0][0].kind == "ins" and align("", "", str) == ((), 0)
    assert [s.kind for s in align("a b c", "a c", str)[0]] == ["ok", "del", "ok"]


def test_groups():
    assert group_of(base=2, single=0, merged=1) == "lost"
    assert group_of(base=2, single=1, merged=1) == "kept"
    assert group_of(base=2, single=1, merged=0) == "synergy"
    assert group_of(base=1, single=1, merged=1) == "hard"
    assert group_of(base=0, single=0, merged=0) == "easy"
    assert group_of(base=1, single=None, merged=0) == "kept"
    assert group_of(base=1, single=None, merged=2) == "harmed"
    assert group_of(base=1, single=None, merged=1) == "hard"


def test_loss_on_a_task_without_adapter_is_said(tmp_path, monkeypatch):
    """A merge of kws and intent that ruins recognition must not look like one that only gains."""
    root = write_fake_exp(tmp_path, utterances=12, adapters=("kws", "intent"), splits=("test",))
    score = root / "exp/decode/test/task_arithmetic_scale0.4/asr/score.json"
    record, scores = read_json(score), read_json(root / "exp/scores_test.json")
    base = read_json(root / "exp/decode/test/base/asr/score.json")
    record["generation"]["value"] = base["generation"]["value"] + 0.14
    next(s for s in scores["systems"] if s["name"] == "task_arithmetic_scale0.4")["scores"]["asr"]["generation"] = (
        record["generation"]["value"])
    write_json(score, record)
    write_json(root / "exp/scores_test.json", scores)
    assert report(root, monkeypatch, "--max-examples", "0") == 0
    text = Page((root / "exp/report/index.html").read_text()).text
    assert "Δ undefined14.0 worse than base" in text and "asr 14.0 worse than base (points)" in text
    assert "Δ of asr is undefined: no single adapter to compare with" in text


def test_picking_takes_turns_and_does_not_depend_on_order():
    groups = {f"u{i}": ["lost", "easy"][i % 4 == 0] for i in range(40)}
    picked = pick(groups, 4)
    assert sorted(groups[id_] for id_ in picked) == ["easy", "easy", "lost", "lost"]
    assert picked == pick(dict(reversed(groups.items())), 4)
    assert len(pick(groups, 100)) == 40 and pick({}, 3) == []


def test_cells_have_enough_contrast():
    """WCAG AA asks for 4.5."""
    for kept in range(-300, 301):
        background = colours.kept_colour(kept / 100)
        assert colours.contrast(background, colours.text_colour(background)) >= 4.5
    assert colours.kept_colour(0) == "#ffffff" and colours.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_numbers_are_printed_without_tricks():
    assert (
        percent(0.12345) == "12.3 %"
        and percent(-0.5) == "−50.0 %"
        and percent(None) == "n/a"
        and percent(1.0) == "100.0 %"
    )
    assert signed(-0.25) == "−0.25" and signed(0) == "+0.00" and signed(None) == "undefined"


def test_records_are_json(made):
    """What the page shows as resolved settings can be copied out and read again."""
    records = re.findall(r"<pre>(\{.*?\})</pre>", made[1], re.DOTALL)
    assert records and all(json.loads(record.replace("&#34;", '"').replace("&#39;", "'")) for record in records)


def merged(name: str, method: str, own_sets=("asr", "kws"), **params) -> dict:
    return {"name": name, "kind": "merged", "method": method, "params": params, "own_sets": list(own_sets)}


def test_short_names():
    base = {"name": "base", "kind": "base"}
    entries = [
        base,
        merged("ta_s0.4_x", "ta", scale=0.4, weights=None),
        merged("ta_s1_x", "ta", scale=1.0, weights=None),
        merged("ties_x", "ties", k=20.0),
    ]
    assert short_names(entries) == {
        "base": "base",
        "ta_s0.4_x": "ta scale=0.4",
        "ta_s1_x": "ta scale=1",
        "ties_x": "ties",
    }
    of_fewer = merged("ties_y", "ties", own_sets=("asr",), k=20.0)
    assert short_names([*entries, of_fewer])["ties_y"] == "ties of asr"
    twins = [merged("a", "ties", k=20.0), merged("b", "ties", k=20.0)]
    assert short_names(twins) == {"a": "a", "b": "b"}
    assert short_names([{"name": "ties", "kind": "adapter"}, merged("m", "ties")])["m"] == "m"
    assert short_names([merged("uniform", "uniform")]) == {"uniform": "uniform"}


def test_long_tables_of_records_stay_in_their_file():
    record = {"error": {"norm": 1.0, "relative": {str(i): i for i in range(100)}}, "tasks": ["a", "b"]}
    assert shorten(record) == {"error": {"norm": 1.0, "relative": "(100 entries, see the file)"}, "tasks": ["a", "b"]}


def test_a_task_scored_on_several_data_directories(tmp_path, monkeypatch):
    """Languages: sets that are not named as the task; the record says which task they are and where their data is."""
    root = write_fake_exp(tmp_path, utterances=6, splits=("test",))
    for path in sorted((root / "exp/decode/test").glob("*/asr")):
        score = read_json(path / "score.json")
        write_json(path / "score.json", {**score, "set": "italian"})
        path.rename(path.parent / "italian")
    (root / "exp/decode/test/asr").rename(root / "exp/decode/test/italian")  # the adapter is named after its set, too
    text = (root / "exp/scores_test.json").read_text()
    (root / "exp/scores_test.json").write_text(text.replace('"asr"', '"italian"'))
    assert report(root, monkeypatch) == 0
    page = Page((root / "exp/report/index.html").read_text())
    assert "italian" in page.text and len(page.all("audio")) > 0
    assert (root / "exp/report/bars_italian.png").is_file()


def test_the_base_is_named_as_seen_from_here(tmp_path, monkeypatch):
    root = write_fake_exp(tmp_path, utterances=6, adapters=(), merges=(), splits=("test",))
    monkeypatch.chdir(root)
    results = read_results("exp", "test")
    assert base_source(results) == "egs/mini/base"
    results.record["base"]["source"] = str(root / "models" / "base")
    assert base_source(results) == "models/base"
