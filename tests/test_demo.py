"""The demo: what it answers is what `decode` writes, bad sounds are told so, and the page works in a browser, offline."""
import contextlib
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from adapters import make_adapter
from routes import hypotheses, make_recipe, train
from tiny import tiny_tones, tone

from speechmerge.cli import main, parse
from speechmerge.demo import rendering
from speechmerge.demo.listener import Answer, Heard
from speechmerge.demo.page import Page, bind, is_local
from speechmerge.demo.sound import take
from speechmerge.demo.subjects import Request, Subject
from speechmerge.demo.weights import KeptWeights
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models.base import load_model
from speechmerge.stages import demo
from speechmerge.systems import find_systems, register_adapter
from speechmerge.tasks import get_task

STRATEGIES = "{hard: {}, oracle: {}, logit_ensemble: {k: 2}, frames: {strategy: soft, level: frame, window: 0.4}}"
SETS = ["low", "high", "kws", "speaker_ver"]
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Two sets with a router over their adapters, a label task, a task on pairs, a merge; all decoded."""
    root = make_recipe(tmp_path_factory.mktemp("demo"))
    for place, task in enumerate(("kws", "speaker_ver")):
        tiny_tones(root / "data" / task / "test", task, n=6)
        folder = make_adapter(root / "base", root / "exp" / task, seed=7 + place, size=0.3)
        register_adapter(root / "exp", task, folder, task)
    assert train(root, strategies=STRATEGIES) == 0
    adapters = [root / "exp/asr/low", root / "exp/asr/high"]
    assert run("merge", "--adapters", *adapters, "--base", root / "base", "--method", "uniform", "--exp-dir", root / "exp") == 0
    systems = ["base", "adapters", "merged", "pitch-hard", "pitch-logit_ensemble", "pitch-frames"]  # no oracle: it hears nothing
    assert run("decode", "--tasks", *SETS, "--systems", *systems, *places(root)) == 0
    return root


def run(*words) -> int:
    return main([str(word) for word in words])


def places(root) -> list:
    return ["--model", root / "base", "--data", root / "data", "--exp-dir", root / "exp", "--device", "cpu"]


def options(root, *words):
    return parse("demo", demo, [str(word) for word in (*places(root), *words)])


@pytest.fixture(scope="module")
def listener(recipe):
    return demo.load(options(recipe, "--examples", 2))


@pytest.fixture()
def page(listener):
    return Page(listener, 0.0)


def decoded(recipe, answer, key, name) -> str | None:
    folder, _, id = key.rpartition("/")
    rows = (recipe / "exp/decode/test" / answer.system / folder / name).read_text().splitlines()
    return next(line.partition(" ")[2] for line in rows if line.split()[0] == id)


# The library


def test_answers_are_what_decode_writes(recipe, listener):
    seen = set()
    for subject in listener.subjects.values():
        for key, example in subject.examples.items():
            for answer in listener.answers(Request(example.audio, example.language, None, key), [subject.name]):
                assert answer.problem is None
                assert answer.text == decoded(recipe, answer, key, "hyp")
                if subject.labels:
                    assert answer.label == decoded(recipe, answer, key, "hyp_labels")
                if subject.name == "speaker_ver":
                    assert answer.trial == pytest.approx(float(decoded(recipe, answer, key, "scores")), abs=1e-5)
                seen.add((subject.name, answer.kind))
    assert seen == {(name, kind) for name in ("asr", "kws", "speaker_ver") for kind in ("base", "adapter", "merged", "routed")}


def test_subjects_join_the_sets_of_one_task(listener):
    assert {name: subject.sets for name, subject in listener.subjects.items()} == {
        "asr": ["high", "low"], "kws": ["kws"], "speaker_ver": ["speaker_ver"]}
    assert [len(subject.examples) for subject in listener.subjects.values()] == [4, 2, 2]
    assert listener.known_languages() == ["de", "en", "it"]
    names = [system.name for system in listener.answering(listener.subjects["kws"])]
    assert "kws" in names and "low" not in names and "pitch-hard" in names and "pitch-oracle" not in names


def test_routing_says_what_the_router_hears(listener):
    key, example = next((k, e) for k, e in listener.subjects["asr"].examples.items() if k.startswith("high"))
    (heard,) = listener.hear(Request(example.audio, example.language, None, key), cache_of())
    assert heard.router == "pitch" and math.isclose(sum(heard.probabilities.values()), 1, abs_tol=1e-5)
    assert heard.probabilities["high"] > 0.5
    rows = heard.timelines["pitch-frames"]
    assert rows.shape[1] == 2 and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-5)
    hard, = listener.answers(Request(example.audio, None, None, key), ["asr"], ["pitch-hard"])
    assert hard.route == "high" and hard.mix == {"high": 1.0} and hard.told == "de"
    assert hard.routing > 0 and math.isclose(hard.real_time_factor, (hard.routing + hard.decoding) / hard.seconds)


def cache_of():
    from speechmerge.data.batching import FeatureCache

    return FeatureCache()


def test_without_a_language_the_router_tells_it(recipe, listener):
    path = str(next((recipe / "data/high/test/wav").glob("*.wav")))
    told = {answer.system: answer.told for answer in listener.answers(Request((path,)), ["asr"])}
    assert told["base"] == told["pitch-hard"] == "de" and told["low"] == "de"  # these adapters name no language
    given = {answer.system: answer.told for answer in listener.answers(Request((path,), "it"), ["asr"], ["base", "pitch-hard"])}
    assert given == {"base": "it", "pitch-hard": "de"}  # a routed system is told what its router hears


def test_what_is_missing_is_said_and_the_others_answer(listener, recipe):
    path = str(next((recipe / "data/low/test/wav").glob("*.wav")))
    found = {(answer.subject, answer.system): answer for answer in listener.answers(Request((path,)))}
    assert "second" in found["speaker_ver", "base"].problem
    assert found["kws", "kws"].problem is None and set(found["kws", "kws"].scores) == {"yes", "no", "stop"}
    question = Subject("speech_qa", get_task("speech_qa"), None, ["speech_qa"])
    with pytest.raises(SpeechMergeError, match="write one"):
        question.example(Request((path,)))
    assert question.example(Request((path,), question="Who?")).prompt == "Who?"


def test_kept_weights_are_those_of_decode_and_leave_the_base(recipe):
    model = load_model(recipe / "base", device="cpu")
    systems = [system for system in find_systems(["adapters", "merged"], recipe / "exp") if system.kind != "routed"]
    before = {name: value.clone() for name, value in model.core.state_dict().items()}
    kept, none = KeptWeights(model, 1 << 30), KeptWeights(model, 0)
    for system in systems:
        assert kept.keep(system) and not none.keep(system)
        with none.of(system):
            expected = {name: value.clone() for name, value in model.core.state_dict().items()}
        with kept.of(system):
            assert all(torch.equal(value, expected[name]) for name, value in model.core.state_dict().items())
            assert any(not torch.equal(value, before[name]) for name, value in expected.items())
        assert all(torch.equal(value, before[name]) for name, value in model.core.state_dict().items())
    assert 0 < kept.size <= len(systems) * sum(value.numel() * 4 for value in before.values())
    assert not KeptWeights(model, kept.size // len(systems) // 2).keep(systems[0])


# Sounds


def write(path, samples, rate=16000):
    soundfile.write(path, samples, rate)
    return str(path)


def test_other_rates_and_channels_are_converted(tmp_path):
    wave = tone(300, 1.0)
    same = take(write(tmp_path / "same.wav", wave), tmp_path, 30)
    assert same.path == str(tmp_path / "same.wav") and same.changes == "" and same.seconds == 1.0
    stereo = write(tmp_path / "stereo.wav", np.repeat(np.stack([wave, wave], 1), 2, axis=0), 32000)
    found = take(stereo, tmp_path, 30)
    samples, rate = soundfile.read(found.path)
    assert rate == 16000 and samples.shape == (16000,) and "32000 Hz" in found.changes and "2 channels" in found.changes


@pytest.mark.parametrize("samples, rate, message", [
    (np.zeros(16000, np.float32), 16000, "silent"), (tone(300, 0.05), 16000, "at least 0.1"),
    (np.tile(tone(300, 1.0), 5), 16000, "5.0 s long; at most 4"), (np.zeros(8000 * 100, np.float32), 8000, "100.0 s long")])
def test_sounds_that_cannot_be_used(tmp_path, samples, rate, message):
    with pytest.raises(SpeechMergeError, match=message):
        take(write(tmp_path / "bad.wav", samples, rate), tmp_path, 4)


@pytest.mark.parametrize("content", [b"", b"no audio at all" * 50, b"RIFF\x24\x00\x00\x00WAVEfmt "])
def test_files_that_are_no_audio(tmp_path, content):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(SpeechMergeError, match="cannot be used"):
        take(tmp_path / "bad.wav", tmp_path, 4)


# The page


def test_models_write_text_not_pages():
    subject = Subject("asr", get_task("asr"), None, ["asr"])
    answer = Answer("asr", "<b>", "base", text="<script>x</script> ${1} {{2}} `", seconds=1.0, told='"')
    shown = rendering.table(subject, [answer], Request(("a.wav",)))
    assert "<script>" not in shown and "<b>" not in shown and not set("{}$`") & set(shown)
    heard = Heard("<i>", {"<u>": 0.75, "b": 0.25}, {"<s>": torch.tensor([[0.75, 0.25]] * 3)})
    shown = rendering.routing([heard], [answer], 1.0)
    assert not re.search("<[ius]>", shown) and "75.0 %" in shown and 'height="75.0"' in shown and "0.0 to 1.0 s" in shown


def test_a_bad_sound_is_answered_with_what_is_wrong(page, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("nothing")
    for sound, message in ((str(bad), "cannot be used"), (None, "no sound yet")):
        (routing, answers), = page.listen(None, sound, None, "", "", None, None)
        assert routing == "" and message in answers and 'role="alert"' in answers


def test_wrong_options(recipe, capsys):
    assert run("demo", "--examples", "-1") == 2
    assert run("demo", "--systems", "nobody", "--port", 0, *places(recipe)) == 1
    with bind("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="leave out --port"):
        bind("127.0.0.1", taken.getsockname()[1])
    assert is_local("127.0.0.1") and is_local("::1") and is_local("localhost") and not is_local("0.0.0.0")


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run("demo") == 1
    assert "pip install -e '.[demo]'" in capsys.readouterr().err


def test_a_system_without_room_is_put_in_place_each_time(recipe, listener):
    tight = demo.load(options(recipe, "--systems", "low", "pitch-hard", "--tasks", "low", "--keep-gb", 0, "--examples", 1))
    assert tight.unkept == ["low"]
    (key, example), = tight.subjects["asr"].examples.items()
    found = {answer.system: answer for answer in tight.answers(Request(example.audio, example.language, None, key))}
    assert all(answer.text == decoded(recipe, answer, key, "hyp") for answer in found.values()) and len(found) == 2
    assert found["low"].placing > 0


# The server


@pytest.fixture(scope="module")
def server(recipe):
    """(address, process) of `speechmerge demo`, started as a user would; the folder is the recipe's."""
    words = ["demo", "--model", "base", "--device", "cpu", "--port", "0", "--examples", "2"]
    process = subprocess.Popen([sys.executable, "-m", "speechmerge", *words], cwd=recipe, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(Path(demo.__file__).parents[2]), "http_proxy": "http://127.0.0.1:9"})
    lines = [process.stdout.readline() for _ in range(2)]
    yield re.search(r"http://127\.0\.0\.1:\d+/", "".join(lines)).group(), process
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def client(server):
    pytest.importorskip("gradio_client")
    from gradio_client import Client

    return Client(server[0], verbose=False, analytics_enabled=False)


def ask(client, sound, language="it", key=None, **more):
    from gradio_client import handle_file

    given = {"second": None, "question": "", "subjects": ["asr"], "systems": ["base", "low", "pitch-hard"], **more}
    return client.predict(key=key, sound=sound and handle_file(str(sound)), language=language, api_name="/listen", **given)


def test_an_upload_is_answered_like_the_data(recipe, client):
    sound = recipe / "data/low/test/wav/low-01.wav"
    routing, answers = ask(client, sound)
    for system in ("base", "low", "pitch-hard"):
        expected = next(line.partition(" ")[2] for line in hypotheses(recipe, system, "low").splitlines() if line.startswith("low-01"))
        assert rendering.text(expected) in answers
    assert "Router pitch" in routing and "pitch-hard" in routing and "1.3 s" in answers


def test_bad_uploads_leave_the_server_alive(tmp_path, recipe, client):
    (tmp_path / "notes.wav").write_text("no audio")
    assert "cannot be used" in ask(client, tmp_path / "notes.wav")[1]
    assert "at most 4 s" in ask(client, write(tmp_path / "long.wav", np.tile(tone(300, 1.0), 9)))[1]
    assert "silent" in ask(client, write(tmp_path / "silence.wav", np.zeros(16000)))[1]
    stereo = write(tmp_path / "stereo.wav", np.stack([tone(300, 1.0)] * 2, 1), 44100)
    assert "44100 Hz resampled" in ask(client, stereo)[1]


def test_only_uploads_and_listed_examples_are_read(server, client, recipe):
    import httpx

    for key in ("low/../../base/config.json", "low/unknown", "/etc/hostname"):
        with pytest.raises(Exception, match="not in the list|Error"):
            ask(client, None, key=key)
    here = httpx.Client(base_url=server[0], trust_env=False)
    for path in ("/etc/hostname", "exp/adapters.json", str(recipe / "exp/adapters.json"), "http://127.0.0.1:9/a.wav"):
        assert here.get(f"/gradio_api/file={path}", follow_redirects=False).status_code in (403, 404)
        payload = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [None, payload, None, "it", "", ["asr"], ["base"]]
        event = here.post("/gradio_api/call/listen", json={"data": data}).json()["event_id"]
        assert "event: error" in here.get(f"/gradio_api/call/listen/{event}", timeout=60).text
    assert "default-src 'self'" in here.get("/").headers["content-security-policy"]


@pytest.fixture()
def chromium():
    from browser import NoBrowser, browser

    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(browser())
        except NoBrowser as error:
            pytest.skip(str(error))
        yield found


def test_the_page_in_a_browser(server, recipe, chromium):
    from playwright.sync_api import expect

    requests, said = [], []
    page = chromium.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(60000)
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server[0])
    page.click("#example input")
    page.get_by_role("option", name="high: high-02").click()
    expect(page.get_by_label("Language that is spoken")).to_have_value("de", timeout=60000)
    page.click("#listen")
    expect(page.locator(".sm-part h4", has_text="speaker_ver")).to_be_visible(timeout=60000)
    rows = page.locator(".sm-part", has=page.locator("h4", has_text=re.compile("^asr$"))).locator("tbody tr")
    shown = dict(zip(rows.locator(".sm-system").all_inner_texts(), rows.locator(".sm-text").all_inner_texts()))
    assert page.locator("#example input").input_value().startswith("high: high-02")
    expected = {name: next(line.partition(" ")[2] for line in hypotheses(recipe, name, "high").splitlines() if "high-02" in line)
                for name in shown}
    assert {"base", "low", "high", "pitch-frames"} <= set(shown)
    assert all(text.split()[:-1] == expected[name].split() or text.startswith("(nothing)") for name, text in shown.items())
    assert [url for url in requests if not url.startswith((server[0], "data:", "blob:"))] == [] and len(requests) > 10
    assert said == []
