"""Routing strategies by hand, and routed decoding against what is decoded without a router."""
import json
import shutil

import pytest
import torch
from adapters import make_adapter, peft_model
from routes import SETS, hypotheses, make_recipe, train

import speechmerge
from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.bank.lazy import LazyBank
from speechmerge.cli import main
from speechmerge.data.batching import FeatureCache
from speechmerge.data.directory import DataDir
from speechmerge.decode import Decoder, Options
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.route import STRATEGIES
from speechmerge.route.decode import Routed, routed_hypotheses
from speechmerge.systems import find_systems
from speechmerge.tasks import get_task

PROBABILITIES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]])
LABELS = ["a", "b", "c"]


def weights(name, **options):
    return STRATEGIES.get(name)(LABELS, **options).weights(PROBABILITIES, torch.tensor([2, 1]))


@pytest.mark.parametrize("name, options, expected", [
    ("hard", {}, [[1, 0, 0], [0, 0, 1]]),
    ("soft", {}, [[0.5, 0.3, 0.2], [0.1, 0, 0.9]]),
    ("top_k", {"k": 2}, [[0.625, 0.375, 0], [0.1, 0, 0.9]]),
    ("top_k", {"k": 1}, [[1, 0, 0], [0, 0, 1]]),
    ("threshold", {"tau": 0.8, "k": 2}, [[0.625, 0.375, 0], [0, 0, 1]]),
    ("hierarchical", {"tree": {"x": ["a", "b"]}}, [[0.625, 0.375, 0], [0, 0, 1]]),
    ("hierarchical", {"tree": {"x": ["a", "b"]}, "within": "hard"}, [[1, 0, 0], [0, 0, 1]]),
    ("oracle", {}, [[0, 0, 1], [0, 1, 0]]),
    ("uniform", {}, [[1 / 3] * 3] * 2),
    ("logit_ensemble", {"k": 2}, [[0.625, 0.375, 0], [0.1, 0, 0.9]]),
])
def test_weights_by_hand(name, options, expected):
    torch.testing.assert_close(weights(name, **options), torch.tensor(expected).float())


def test_a_family_outweighs_its_languages():
    """b and c together are more probable than a, although a is the most probable label."""
    strategy = STRATEGIES.get("hierarchical")(LABELS, tree={"x": ["b", "c"], "y": ["a"]})
    found = strategy.weights(torch.tensor([[0.4, 0.35, 0.25]]))
    torch.testing.assert_close(found, torch.tensor([[0, 0.35 / 0.6, 0.25 / 0.6]]))


def test_labels_of_the_base_take_no_share_of_uniform():
    found = STRATEGIES.get("uniform")(LABELS, ["a", "c"]).weights(PROBABILITIES)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0.5]] * 2))


def test_wrong_options():
    for name, options in (("top_k", {"k": 0}), ("threshold", {"tau": 1.5}), ("hierarchical", {"within": "x"}), ("hard", {"k": 1}),
                          ("hierarchical", {"tree": {"x": ["a"], "y": ["a"]}}), ("arrow", {"temperature": 0})):
        with pytest.raises(UsageError):
            STRATEGIES.get(name)(LABELS, **options)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = make_recipe(tmp_path_factory.mktemp("route"))
    assert train(folder) == 0
    return folder


@pytest.fixture(scope="module")
def model(recipe):
    return load_model(recipe / "base", device="cpu", audio_context="dynamic", audio_context_min=1.0,
                      audio_context_step=0.5)


@pytest.fixture(scope="module")
def mixed(recipe):
    """Examples of both sets, with the label of each."""
    found = [(e, name) for name in SETS for e in get_task("asr").examples(DataDir.read(recipe / "data" / name / "test"))]
    return [example for example, _ in found], [name for _, name in found]


def routing_of(recipe, name: str, **changes) -> dict:
    [system] = find_systems([f"pitch-{name}"], recipe / "exp")
    return {**system.routing, **changes}


def routed_texts(model, routing: dict, mixed, limit=None, **options):
    with Routed(model, routing, limit) as routed:
        batches = list(routed_hypotheses(routed, get_task("asr"), *mixed, None, Options(**options), FeatureCache()))
    return {h.id: (h.text, h.route) for batch in batches for h in batch}, len(batches)


def decode(model, recipe, system: str, set_name: str):
    data = DataDir.read(recipe / "data" / set_name / "test")
    Decoder(model, get_task("asr"), data, "test", recipe / "exp", set_name=set_name).decode(find_systems([system], recipe / "exp")[0])
    return hypotheses(recipe, system, set_name)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["hard", "soft", "frames", "logit_ensemble", "arrow"])
def test_mixed_batches_equal_one_by_one(model, recipe, mixed, name, beams):
    together, batches = routed_texts(model, routing_of(recipe, name), mixed, num_beams=beams, batch_size=8)
    alone, singles = routed_texts(model, routing_of(recipe, name), mixed, num_beams=beams, batch_size=1)
    assert (batches, singles) == (3, 8)  # 1, 1.5 and 2 s of context; both sets in each batch
    assert {id: text for id, (text, _) in together.items()} == {id: text for id, (text, _) in alone.items()}


def test_adapters_differ(model, recipe):
    """Else the tests beside this one would show nothing."""
    for name in SETS:
        assert len({decode(model, recipe, system, name) for system in ("base", "low", "high")}) == 3


@pytest.mark.parametrize("set_name", SETS)
def test_hard_routing_equals_that_adapter(model, recipe, set_name):
    """The router is right about all of these, and knows the language."""
    assert decode(model, recipe, "pitch-hard", set_name) == decode(model, recipe, set_name, set_name)
    assert decode(model, recipe, "pitch-oracle", set_name) == decode(model, recipe, set_name, set_name)


def test_uniform_equals_the_merged_adapter(model, recipe):
    run = recipe / "exp/merged/uniform/low_high/runs/run_1"
    adapters = [recipe / "exp/asr" / name for name in SETS]
    if not run.is_dir():
        speechmerge.merge(adapters, method="uniform", base=recipe / "base").save(run)
    data = DataDir.read(recipe / "data/low/test")
    decoder = Decoder(model, get_task("asr"), data, "test", recipe / "exp", set_name="low")
    [system] = find_systems([str(run)], recipe / "exp")
    decoder.decode(system)
    assert decode(model, recipe, "pitch-uniform", "low") == hypotheses(recipe, system.name, "low")


def test_one_label_in_an_ensemble_is_hard_routing(model, recipe, mixed):
    one = routed_texts(model, routing_of(recipe, "logit_ensemble", options={"k": 1}), mixed)[0]
    hard = routed_texts(model, routing_of(recipe, "hard"), mixed)[0]
    assert {id: text for id, (text, _) in one.items()} == {id: text for id, (text, _) in hard.items()}


@torch.no_grad()
def test_the_ensemble_averages_distributions(model, recipe, mixed):
    """Against two PEFT models, whose probabilities are averaged token by token."""
    task, example, share = get_task("asr"), mixed[0][1], 0.3
    with Routed(model, routing_of(recipe, "logit_ensemble")) as routed:
        decision = routed.decide([example])[0]
        decision.weights[:] = torch.tensor([share, 1 - share])  # the labels are high, low
        items = [Item(example, model.features(example.audio), model.seconds(example))]
        with routed.mixing([decision], items, task) as (batch, count):
            text = model.generate(batch, task)[::count]
    batch = model.collate(items, task)
    networks = [peft_model(recipe / "base", recipe / "exp/asr" / name) for name in ("high", "low")]
    for network in networks:
        network.get_base_model().model.encoder.__class__ = type(model.core.model.encoder)
    ids = batch["decoder_input_ids"]
    end = model.tokenizer.eos_token_id
    while ids[0, -1] != end and ids.shape[1] < model.max_positions:
        first, second = (network(input_features=batch["input_features"], decoder_input_ids=ids).logits[:, -1].softmax(-1)
                         for network in networks)
        mean = share * first + (1 - share) * second
        ids = torch.cat([ids, mean.argmax(-1, keepdim=True)], dim=1)
    answer = ids[0, batch["decoder_input_ids"].shape[1] :].tolist()
    assert text == [model.tokenizer.decode(answer, skip_special_tokens=True).strip()]
    assert text[0]


def test_frames_that_agree_are_the_utterance(model, recipe, mixed):
    """Hard routing per frame of utterances of one label: the same coefficients everywhere."""
    frames = routing_of(recipe, "hard", level="frame", window=5.0, smoothing="viterbi", smoothing_seconds=30.0)
    found, hard = routed_texts(model, frames, mixed)[0], routed_texts(model, routing_of(recipe, "hard"), mixed)[0]
    assert {id: text for id, (text, _) in found.items()} == {id: text for id, (text, _) in hard.items()}
    assert found["low-00"][1].split()[0] == "low" and found["low-00"][1].endswith("0.00-0.90=low")


def test_arrow_takes_the_main_direction(recipe, model):
    bank = AdapterBank(model.core, [recipe / "exp/asr" / name for name in SETS], list(SETS), base=model.path)
    mix = STRATEGIES.get("arrow")(["high", "low"], k=2).coefficients(bank)
    owner = "model.encoder.layers.0.fc1"
    expected = torch.stack([torch.linalg.svd(vector.deltas[owner + ".weight"].dense().float()).Vh[0] for vector in bank.vectors.values()])
    assert torch.allclose((mix.prototypes[owner] * expected).sum(1).abs(), torch.ones(2), atol=1e-4)
    x = torch.randn(2, 5, expected.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mix.at(owner, x), (x @ expected.T).abs().softmax(-1), rtol=1e-3, atol=1e-4)
    bank.remove()


def test_arrow_over_one_adapter_is_that_adapter(recipe, model):
    bank = AdapterBank(model.core, [recipe / "exp/asr/low"], ["low"], base=model.path)
    features, ids = torch.randn(1, 80, 100), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        with bank.using(STRATEGIES.get("arrow")(["low"]).coefficients(bank)):
            found = model.core(input_features=features, decoder_input_ids=ids).logits
        with bank.using(bank.one("low")):
            expected = model.core(input_features=features, decoder_input_ids=ids).logits
    torch.testing.assert_close(found, expected)
    bank.remove()


def test_what_is_told_is_the_routers_language(model, recipe, mixed):
    """Nothing but the audio is known: the language of the data does not reach the decoder."""
    examples, labels = mixed
    with Routed(model, routing_of(recipe, "hard")) as routed:
        decisions = routed.decide(examples)
        assert [routed.told(e, d).language for e, d in zip(examples, decisions)] == [SETS[label][1] for label in labels]
    with Routed(model, routing_of(recipe, "hard", language="given")) as routed:
        assert routed.told(examples[0], decisions[-1]) == examples[0]


def test_a_bank_that_loads_on_demand(recipe, model, mixed):
    expected = routed_texts(model, routing_of(recipe, "hard"), mixed)[0]
    assert routed_texts(model, routing_of(recipe, "hard"), mixed, limit=1)[0] == expected
    folders = {name: recipe / "exp/asr" / name for name in SETS}
    size = sum(file.stat().st_size for file in folders["low"].glob("*.safetensors"))
    bank = LazyBank(model.core, folders, base=model.path, limit=round(1.5 * size))
    features, ids = torch.randn(1, 80, 100), torch.ones(1, 3, dtype=torch.long)
    seen, values = [], []
    with torch.no_grad():
        for name in ("low", "low", "high", "low"):
            with bank.using(bank.one(name)):
                values.append(model.core(input_features=features, decoder_input_ids=ids).logits)
                with pytest.raises(SpeechMergeError, match="while they are in use"):
                    bank.drop(name)
            seen.append((bank.loaded, bank.loads))
    assert seen == [(["low"], 1), (["low"], 1), (["high"], 2), (["low"], 3)]
    torch.testing.assert_close(values[0], values[3])
    assert bank.bytes() <= bank.limit
    bank.remove()


def test_adapters_come_and_go(recipe, model, tmp_path):
    third = make_adapter(recipe / "base", tmp_path / "third", seed=9, size=0.3, r=2)
    bank = LazyBank(model.core, {"low": recipe / "exp/asr/low"}, base=model.path)
    bank.add(third, "third")
    with pytest.raises(SpeechMergeError, match="two adapters are called 'third'"):
        bank.add(third, "third")
    features, ids = torch.randn(1, 80, 100), torch.ones(1, 3, dtype=torch.long)
    plain = AdapterBank(load_model(recipe / "base", device="cpu").core, [third], ["third"])
    with torch.no_grad():
        with bank.using(Coefficients.per_utterance([[0.0, 0.5]])):
            found = model.core(input_features=features, decoder_input_ids=ids).logits
        plain.module.model.encoder.__class__ = type(model.core.model.encoder)
        with plain.using(Coefficients.per_task([0.5])):
            expected = plain.module(input_features=features, decoder_input_ids=ids).logits
    torch.testing.assert_close(found, expected)
    assert bank.loaded == ["third"]  # the other has no share
    bank.drop("third")
    assert (bank.names, bank.loaded) == (["low"], [])
    with pytest.raises(SpeechMergeError, match="no adapter 'third'"):
        bank.drop("third")
    bank.remove()


def test_least_recently_used_goes_first(recipe, model, tmp_path):
    folders = {name: make_adapter(recipe / "base", tmp_path / name, seed=seed) for seed, name in enumerate("xyz")}
    size = sum(file.stat().st_size for file in folders["x"].glob("*.safetensors"))
    bank = LazyBank(model.core, folders, base=model.path, limit=2 * size)
    for name in "xyxz":
        with bank.using(bank.one(name)):
            assert name in bank.loaded
    assert bank.loaded == ["x", "z"]
    with bank.using(Coefficients.per_task([1.0, 1.0, 1.0])):  # a batch gets what it needs, also beyond the limit
        assert bank.bytes() == 3 * size
    bank.remove()


def test_routed_systems_are_systems(recipe, capsys):
    """decode --systems all, score and route know them; what is there is kept."""
    words = ["--tasks", "low,high", "--data", str(recipe / "data"), "--exp-dir", str(recipe / "exp"), "--device", "cpu"]
    assert main(["decode", "--systems", "base,low,high,routed", "--task", "asr", "--model", str(recipe / "base"), *words]) == 0
    router = str(recipe / "exp/router/pitch")
    capsys.readouterr()
    assert main(["route", "--router", router, "--model", str(recipe / "base"), "--task", "asr", *words]) == 0
    out = capsys.readouterr().out
    assert "made" not in out and "pitch-hard/low: kept, 100.0 % routed to their own label" in out
    assert main(["score", "--tasks", "low,high", "--split", "test", "--exp-dir", str(recipe / "exp")]) == 0
    scores = {entry["name"]: entry for entry in json.loads((recipe / "exp/scores_test.json").read_text())["systems"]}
    assert scores["pitch-hard"]["kind"] == "routed"
    assert scores["pitch-hard"]["scores"]["low"] == scores["low"]["scores"]["low"]
    routes = (recipe / "exp/decode/test/pitch-soft/low/routes").read_text().splitlines()[0].split()
    assert routes[:2] == ["low-00", "low"] and sum(float(word.split("=")[1]) for word in routes[3:]) == pytest.approx(1, abs=1e-3)


def test_bad_input(recipe, tmp_path, capsys, model):
    for name in ("base", "data"):
        (tmp_path / name).symlink_to(recipe / name)
    shutil.copytree(recipe / "exp", tmp_path / "exp")
    words = ["--tasks", "low", "--data", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp"), "--device", "cpu", "--model",
             str(tmp_path / "base")]
    shutil.rmtree(tmp_path / "exp/asr/high")
    (tmp_path / "exp/adapters.json").write_text(json.dumps({"low": {"path": str(tmp_path / "exp/asr/low"), "task": "asr"}}))
    assert main(["decode", "--systems", "pitch-hard", *words]) == 1
    assert "to the adapter 'high', which is not there (known: low); train it, or name high in --base-labels" in capsys.readouterr().err
    assert main(["route", "--router", str(tmp_path / "nowhere"), *words]) == 2
    assert "none is registered for" in capsys.readouterr().err
    with pytest.raises(SpeechMergeError, match="label 'medium' is unknown; it was trained on high, low"):
        with Routed(model, routing_of(recipe, "oracle")) as routed:
            routed.decide([None], ["medium"])
