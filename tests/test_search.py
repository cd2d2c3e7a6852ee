"""Searches: what they ask, how workers share one, how points are stopped early."""
import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from adapters import load_base, logits, make_adapter
from tiny import tiny_whisper

from speechmerge.errors import UsageError
from speechmerge.files import read_json, try_lock
from speechmerge.in_memory import Mixer
from speechmerge.merge.config.search_space import read_search
from speechmerge.merge.run import prepare
from speechmerge.search import searcher
from speechmerge.search.halving import at_rung, goes_on
from speechmerge.search.journal import DONE, RUNNING, STOPPED, Journal
from speechmerge.search.samplers import PENDING

SPACE = {"x": {"type": "float", "min": 0, "max": 1}, "y": {"type": "log", "min": 0.01, "max": 100}}
KINDS = ("bayes", "tpe", "cmaes", "random")


def search_of(kind, budget=24, **more):
    return read_search("search", {"type": kind, "budget": budget, "init_points": 6, "seed": 3, "space": SPACE, **more})


def hill(values):
    """0 at its top, x = 0.37 and y = 1."""
    from math import log10

    return -(values["x"] - 0.37) ** 2 - 0.1 * log10(values["y"]) ** 2


def run_search(search, points=(), objective=hill):
    points, asked = list(points), searcher(search)
    while (values := asked.ask(points)) is not None:
        points.append((values, objective(values)))
    return points


@pytest.mark.parametrize("kind", ("bayes", "tpe", "cmaes"))
def test_searches_go_where_it_is_better(kind):
    found, spread = run_search(search_of(kind)), run_search(search_of("random"))
    assert found[:6] == spread[:6]
    late = sum(score for _, score in found[-8:]) / 8
    assert late > 0.7 * sum(score for _, score in spread) / len(spread)
    assert max(score for _, score in found) > -0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", (0, 5, 6, 13, 17))
def test_killed_after_any_point_the_others_follow(kind, kept):
    whole = run_search(search_of(kind, 18))
    stored = [(json.loads(json.dumps(values)), score) for values, score in whole[:kept]]
    assert run_search(search_of(kind, 18), stored) == whole
    assert len({repr(values) for values, _ in whole}) == 18
    assert all(0 <= values["x"] <= 1 and 0.01 <= values["y"] <= 100 for values, _ in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_are_given_other_points(kind):
    points = run_search(search_of(kind, 10))
    asked, running = searcher(search_of(kind)), []
    for _ in range(4):
        running.append((asked.ask([*points, *running]), PENDING))
    assert len({repr(values) for values, _ in [*points, *running]}) == 14
    first = [(values, PENDING) for values in (searcher(search_of(kind)).ask([]),)]
    assert asked.ask(first) not in (None, first[0][0])


@pytest.mark.parametrize("kind", ("tpe", "cmaes"))
def test_points_without_a_score_are_no_reason_to_stop(kind):
    found = run_search(search_of(kind, 16), objective=lambda values: hill(values) if values["x"] < 0.7 else None)
    assert len(found) == 16 and sum(score is None for _, score in found) < 8


def test_cmaes_needs_numbers_and_two_of_them():
    with pytest.raises(UsageError, match="there is only x"):
        searcher(search_of("cmaes", space={"x": SPACE["x"]}))
    with pytest.raises(UsageError, match="mode is categorical"):
        searcher(search_of("cmaes", space={**SPACE, "mode": {"type": "categorical", "choices": [1, 2]}}))


# halving

def test_the_best_half_goes_on():
    assert goes_on(0.3, [], 0.5)
    assert not goes_on(0.3, [0.4], 0.5) and goes_on(0.5, [0.4], 0.5)
    assert goes_on(0.3, [0.4, 0.1, 0.2], 0.5) and not goes_on(0.15, [0.4, 0.1, 0.2], 0.5)
    assert not goes_on(0.3, [0.4, 0.1, 0.2], 0.25)
    assert goes_on(None, [0.4], 0.5) and goes_on(0.1, [None, None], 0.5)
    assert at_rung([{"rungs": {"0.25": 0.1}}, {"state": RUNNING}, {"rungs": {"0.25": None, "0.5": 3}}], 0.25) == [0.1, None]


@pytest.mark.parametrize("rungs", ([], [0.5, 0.25], [1.0], ["a"], 0.5))
def test_rungs_rise_below_one(rungs):
    with pytest.raises(UsageError, match=r"search.halving.rungs: found"):
        search_of("tpe", halving={"rungs": rungs})


def test_halving_has_defaults_and_may_be_left_out():
    assert search_of("tpe", halving=True)["halving"] == {"rungs": [0.25], "keep": 0.5}
    assert "halving" not in search_of("tpe")


# workers

def point(values, **more):
    return {"values": values, "tag": repr(values), "interference_delta": {"a": hill(values)}, "state": DONE, **more}


def work(path, budget, seconds, done):
    """A worker: claims points until none is left."""
    journal, asked = Journal(path, {"points": [], "warm_points": [], "ranking": []}), searcher(search_of("tpe", budget))
    while (claim := journal.claim(asked)) is not None:
        time.sleep(seconds)
        journal.finish(claim, point(claim.values, by=os.getpid()))
    done.set()


def start(*arguments):
    context = multiprocessing.get_context("fork")
    done = context.Event()
    process = context.Process(target=work, args=(*arguments, done))
    process.start()
    return process, done


def test_two_workers_share_a_search(tmp_path):
    path = tmp_path / "sweep_1.json"
    workers = [start(path, 12, 0.3) for _ in range(2)]
    for process, _ in workers:
        process.join(60)
    points = read_json(path)["points"]
    assert len(points) == 12 == len({repr(found["values"]) for found in points})
    assert {found["by"] for found in points} == {process.pid for process, _ in workers}
    assert len(read_json(path)["ranking"]) == 12


def test_the_point_of_a_killed_worker_is_tried_again(tmp_path):
    path = tmp_path / "sweep_1.json"
    process, _ = start(path, 8, 0.3)
    while not path.is_file() or len(read_json(path)["points"]) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    journal = Journal(path, {})
    assert read_json(path)["points"][2] == {"values": read_json(path)["points"][2]["values"], "state": RUNNING}
    second, _ = start(path, 8, 0)
    second.join(60)
    whole = tmp_path / "sweep_2.json"
    third, _ = start(whole, 8, 0)
    third.join(60)
    assert [found["values"] for found in read_json(path)["points"]] == [found["values"] for found in read_json(whole)["points"]]
    assert journal.running() == 0


def test_stopped_points_are_not_ranked(tmp_path):
    journal = Journal(tmp_path / "sweep_1.json", {"points": [], "warm_points": [], "ranking": []})
    asked = searcher(search_of("random", 2, init_points=1))
    journal.finish(journal.claim(asked), point({"x": 0.1, "y": 1}, state=STOPPED))
    journal.finish(journal.claim(asked), point({"x": 0.9, "y": 1}))
    assert journal.read()["ranking"] == [repr({"x": 0.9, "y": 1})]
    assert journal.claim(asked) is None


def test_a_lock_is_held_by_one(tmp_path):
    first = try_lock(tmp_path / "a")
    assert try_lock(tmp_path / "a") is None
    first.close()
    assert try_lock(tmp_path / "a") is not None


# points on a model

@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(base, folder / str(seed), seed=seed) for seed in range(3)]


class Holder:
    """What Mixer needs of a SpeechModel."""

    def __init__(self, base):
        self.core, self.path = load_base(base), Path(base)


LAYERS = {"type": "per_layer", "default": 0.4, "overrides": {"encoder": {0: 0.9}, "decoder": {1: 0.1}}}
MERGES = {
    "sum": ("task_vector", {"scale": 0.7}, None, ()),
    "own weights": ("weighted_delta_n", {"coefficients": [0.3, 0.5, 0.1]}, None, ()),
    "by layer": ("task_vector", {}, LAYERS, ()),
    "transformed": ("uniform", {}, None, [{"name": "truncate", "params": {"rank": 1}}]),
    "not linear": ("ties", {"k": 40}, None, ()),
    "factors": ("task_vector", {"mode": "factors"}, None, ()),
}


def test_points_in_memory_are_the_saved_merges(base, adapters, tmp_path):
    holder = Holder(base)
    mixer, before = Mixer(holder), logits(holder.core)
    for name, (method, params, policy, transforms) in itertools.chain(MERGES.items(), MERGES.items()):
        made = prepare(adapters, method, base, lambda_policy=policy, transforms=transforms, params=params)
        model = load_base(base)
        with made.run().applied(model):
            expected = logits(model)
        with mixer.applied(made):
            found = logits(holder.core)
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name
        assert torch.equal(logits(holder.core), before), name
    mixer.close()
    assert not holder.core._forward_hooks and torch.equal(logits(holder.core), before)
