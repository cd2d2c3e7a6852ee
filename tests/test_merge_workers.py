"""Work on several cores: order, errors, and what is left of the workers."""
import os
import signal

import pytest
import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.compute import computing, ordered
from speechmerge.merge.workers import by_processes, by_threads

WAYS = [by_processes, by_threads]

BEFORE: list[str] = []


def children() -> list[str]:
    """Processes of ours, without those that other tests of this run have left to the interpreter."""
    return [child for child in open(f"/proc/self/task/{os.getpid()}/children").read().split() if child not in BEFORE]


@pytest.fixture(autouse=True)
def remember():
    BEFORE[:] = open(f"/proc/self/task/{os.getpid()}/children").read().split()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_results_come_in_order_whatever_is_sent(way, count):
    def square(number):
        tensor = torch.full((3, number), float(number), dtype=torch.float64)
        return number, tensor * tensor, {"name": [None, b"x" * number]}

    found = list(way(square, iter(range(23)), count))
    assert [number for number, _, _ in found] == list(range(23))
    assert all(torch.equal(tensor, torch.full((3, number), float(number ** 2), dtype=torch.float64))
               for number, tensor, _ in found)
    assert found[5][2] == {"name": [None, b"xxxxx"]} and not children()


@pytest.mark.parametrize("way", WAYS)
def test_nothing_to_do(way):
    assert list(way(abs, [], 2)) == []


@pytest.mark.parametrize("error, expected, message", [
    (SpeechMergeError("key w: NaN"), SpeechMergeError, "key w: NaN"),
    (OSError(28, "No space left on device"), OSError, "No space left"),
    (ZeroDivisionError("why"), RuntimeError, "ZeroDivisionError: why"),
])
def test_errors_are_raised_here_after_the_results_before_them(error, expected, message):
    def fail_at_three(number):
        if number == 3:
            raise error
        return number

    results = by_processes(fail_at_three, range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(expected, match=message):
        next(results)
    assert not children()


def test_a_killed_worker_is_an_error_and_not_a_shorter_result():
    def die(number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(SpeechMergeError, match="was killed.*run the same command again"):
        list(by_processes(die, range(9), 2))
    assert not children()


def test_who_stops_early_leaves_no_process():
    results = by_processes(lambda number: bytes(1 << 20), range(100), 3)
    assert len(next(results)) == 1 << 20 and len(children()) == 3
    results.close()
    assert not children()


def test_what_is_changed_here_needs_threads():
    seen = []
    with computing(2):
        assert list(ordered(seen.append, range(5))) == [None] * 5 and not seen
        assert list(ordered(seen.append, range(5), here=True)) == [None] * 5
    assert sorted(seen) == [0, 1, 2, 3, 4]
