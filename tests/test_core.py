"""Atomic writes, locks, the registry and the keys that let a finished step be skipped."""
import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from speechmerge import files
from speechmerge.done import is_done, mark_done, step_key
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import Registry


def test_a_failing_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError):
        with files.atomic_file(path) as file:
            file.write("half")
            raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(SpeechMergeError, match=r"a\.txt: cannot be written \(no space left"):
        with files.atomic_file(path) as file:
            raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"


def test_a_really_full_disk():
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("/dev/full is not there")
    with pytest.raises(SpeechMergeError, match="no space left"):
        with files.disk_errors(Path("/dev/full")), open("/dev/full", "w") as file:
            file.write("x" * 100_000)
            file.flush()


def test_atomic_dir_replaces_whole_folders(tmp_path):
    target = tmp_path / "out"
    for name in ("first", "second"):
        with files.atomic_dir(target) as folder:
            (folder / name).write_text(name)
    assert os.listdir(target) == ["second"]
    with pytest.raises(RuntimeError):
        with files.atomic_dir(target) as folder:
            (folder / "third").write_text("x")
            raise RuntimeError
    assert os.listdir(target) == ["second"]
    assert [name for name in os.listdir(tmp_path) if name.endswith((".part", ".old"))] == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real" / "x.json")
    files.write_json(link, {"a": 1})
    assert link.is_symlink() and files.read_json(tmp_path / "real" / "x.json") == {"a": 1}


def append(path, number):
    for item in range(20):
        files.append_index(path, [number, item])


def test_many_writers_of_one_index_lose_no_entry(tmp_path):
    path = tmp_path / "index.json"
    workers = [multiprocessing.Process(target=append, args=(path, number)) for number in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert sorted(files.read_json(path)) == [[number, item] for number in range(4) for item in range(20)]


def test_bad_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SpeechMergeError, match=r"x\.json: is not valid JSON"):
        files.read_json(tmp_path / "x.json")


def test_registry_names_the_nearest_and_refuses_a_second_entry():
    registry = Registry("method", "speechmerge.stages")
    registry.register("ties", "alias")(int)
    assert registry.get("alias") is int
    with pytest.raises(UsageError, match="unknown method 'tie'; did you mean 'ties'"):
        registry.get("tie")
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("ties")(float)


def test_a_step_is_done_until_its_options_inputs_or_outputs_change(tmp_path):
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    (given / "a").write_text("1")
    (out / "result").write_text("x")
    key = step_key({"lr": 1e-3}, [given])
    assert not is_done(out, key)
    mark_done(out, key, ["result"])
    assert is_done(out, key) and key == step_key({"lr": 1e-3}, [given])
    assert not is_done(out, step_key({"lr": 1e-4}, [given]))
    (given / "a").write_text("2")
    assert not is_done(out, step_key({"lr": 1e-3}, [given]))
    (out / "result").unlink()
    assert not is_done(out, key)
