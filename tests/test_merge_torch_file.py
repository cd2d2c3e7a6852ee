"""PyTorch checkpoints read without torch and written back: equal to torch.load, and nothing of theirs ever runs."""
import argparse
import collections
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.storage import torch_pickle
from speechmerge.storage.safetensors_file import read_bytes, read_elements, read_tensor
from speechmerge.storage.torch_file import Permuted, containers, open_torch_file, read_torch_header
from speechmerge.storage.torch_write import TorchWriter, write_torch_file

ZIP = {"_use_new_zipfile_serialization": True}
LEGACY = {"_use_new_zipfile_serialization": False}
FORMATS = pytest.mark.parametrize("format_", [ZIP, LEGACY], ids=["zip", "legacy"])


def some_weights(format_=ZIP):
    """One of everything that a state dict can hold and that can be merged, and that torch can load again."""
    torch.manual_seed(0)
    long = torch.randn(4, 6)
    weights = collections.OrderedDict({
        "encoder.weight": torch.randn(5, 7),
        "encoder.bias": torch.nn.Parameter(torch.randn(5)),
        "half": torch.randn(3, 2).half(),
        "bfloat16": torch.randn(3, 3).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "steps": torch.tensor(7),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "shorts": torch.arange(4, dtype=torch.int16),
        "unsigned": torch.tensor([1, 2, 65535], dtype=torch.uint16),
        "float8": torch.randn(6).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 3),
        "view.rows": long[1:3],
        "view.last": long[3],
        "transposed": torch.randn(4, 6).t(),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "one": torch.randn(1, 8, 1).transpose(0, 2),  # strides of dimensions of size 1 mean nothing
    })
    if format_ is LEGACY:
        del weights["unsigned"], weights["float8"]
    weights["tied"] = weights["encoder.weight"]
    weights._metadata = {"": {"version": 1}}
    return weights


def save(value, path, format_=ZIP):
    torch.save(value, path, **format_)
    return path


def raw_bytes(tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(entries, weights):
    assert sorted(entries) == sorted(weights)
    for name, tensor in weights.items():
        if not tensor.numel():
            assert entries[name].shape == tensor.shape and entries[name].start == entries[name].stop
            continue
        found = read_tensor(entries[name])
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
        assert raw_bytes(found) == raw_bytes(tensor)


def refused(path, *words, read=read_torch_header, **options):
    with pytest.raises(SpeechMergeError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.isprintable(), message
    for word in words:
        assert word in message, message


@FORMATS
def test_equal_to_torch_load(tmp_path, format_):
    path = save(some_weights(format_), tmp_path / "weights.pt", format_)
    assert_same(read_torch_header(path), torch.load(path, weights_only=False))


@FORMATS
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_pickle_protocols(tmp_path, format_, protocol):
    checkpoint = {"args": argparse.Namespace(units=["a", "b"] * 300, seen={1, 2}), "model": some_weights()}
    torch.save(checkpoint, tmp_path / "weights.pt", pickle_protocol=protocol, **format_)
    assert_same(read_torch_header(tmp_path / "weights.pt"), checkpoint["model"])


def test_blocks_of_tensors_in_another_order(tmp_path):
    weights = some_weights()
    entry = read_torch_header(save(weights, tmp_path / "weights.pt"))["transposed"]
    assert isinstance(entry, Permuted)
    flat = weights["transposed"].reshape(-1)
    for first, last in ((0, 24), (5, 17), (23, 24)):
        assert torch.equal(read_elements(entry, first, last), flat[first:last])
    assert b"".join(bytes(block) for block in read_bytes(entry, 7)) == flat.numpy().tobytes()


def test_a_new_file_under_an_old_name_is_read_anew(tmp_path):
    for seed in range(3):
        tensor = torch.full((2, 3), float(seed)) + torch.arange(6.0).reshape(2, 3)
        path = save({"w": tensor.t()}, tmp_path / "weights.pt")
        assert torch.equal(read_tensor(read_torch_header(path)["w"]), tensor.t())


def hubert():
    """A tiny HuBERT's weights, named as by transformers; the names do not matter here."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    return HubertModel(HubertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                    conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
                                    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)).state_dict()


class Dictionary:
    """Stands for fairseq's: a class that is not there where the file is read."""

    def __init__(self):
        self.symbols, self.indices = ["<s>", "</s>"], {"<s>": 0, "</s>": 1}


def fairseq_checkpoint():
    return {
        "args": None,
        "cfg": {"_name": None, "model": argparse.Namespace(encoder_layers=2, extra=argparse.Namespace(deep=(1, 2)))},
        "model": hubert(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 400000}],
        "task_state": {"dictionaries": [Dictionary()]},
        "extra_state": {"metrics": collections.OrderedDict(), "previous_training_time": np.float64(3.5)},
        "last_optimizer_state": {"state": {0: {"step": 7, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]},
    }


@FORMATS
def test_fairseq_checkpoint(tmp_path, format_):
    checkpoint = fairseq_checkpoint()
    weights = open_torch_file(save(checkpoint, tmp_path / "hubert.pt", format_))
    assert_same(weights.entries, checkpoint["model"])
    assert (weights.container, weights.other, weights.beside) == ("model", {}, {"last_optimizer_state": 1})
    assert containers(weights.path) == {"model": len(checkpoint["model"]), "last_optimizer_state": 1}


@pytest.mark.parametrize("checkpoint,container,names", [
    ({"Upstream": {"a.b": 1}, "Featurizer": {"weights": 1}, "Downstream": {"w": 1}, "Step": 3}, "Upstream", ["a.b"]),
    ({"task_cfg": {}, "model_cfg": {}, "model_weight": {"w": 1}}, "model_weight", ["w"]),
    ({"dims": {"n_mels": 80}, "model_state_dict": {"w": 1}}, "model_state_dict", ["w"]),
    ({"state_dict": {"w": 1}, "epoch": 3, "optimizer_states": {"s": 1}}, "state_dict", ["w"]),
    ({"student": {"w": 1}, "optimizer": {"m": 1}}, "student", ["w"]),
    ({"w": 1, "part": {"v": 1}}, "", ["part.v", "w"]),
    ({"model": {"encoder": {"w": 1}, "b": 1}}, "model", ["b", "encoder.w"]),
    ({"model": {"w": 1}, "step": torch.tensor(3)}, "model", ["w"]),
])
def test_containers(tmp_path, checkpoint, container, names):
    def filled(value):
        return {key: filled(each) if isinstance(each, dict) else torch.ones(2) if each == 1 else each
                for key, each in value.items()}

    weights = open_torch_file(save(filled(checkpoint), tmp_path / "x.pt"))
    assert weights.container == container and sorted(weights.entries) == names


def test_names_are_those_of_the_base_where_s3prl_wrapped_the_model(tmp_path):
    """Its base is {"model_weight": {"encoder.w": ...}}."""
    def names(upstream):
        return sorted(read_torch_header(save({"Upstream": upstream, "Step": 3}, tmp_path / "x.ckpt")))

    assert names({"model.encoder.w": torch.ones(2), "model.b": torch.ones(1)}) == ["b", "encoder.w"]
    assert names({"model.encoder.w": torch.ones(2), "mask_emb": torch.ones(1)}) == ["mask_emb", "model.encoder.w"]
    assert list(read_torch_header(save({"model": {"model.w": torch.ones(2)}}, tmp_path / "x.ckpt"))) == ["model.w"]


def test_what_is_no_tensor_is_listed(tmp_path):
    model = {"w": torch.ones(2), "version": 3, "name": "x", "parts": [torch.ones(1)], "of": Dictionary()}
    weights = open_torch_file(save({"model": model, "ema": {"w": torch.ones(2)}}, tmp_path / "x.pt"))
    assert weights.other == {"version": "int 3", "name": "a str", "parts": "a list",
                             "of": f"an object of '{__name__}.Dictionary'"}
    assert weights.beside == {"ema": 1}
    assert list(open_torch_file(weights.path, "ema").entries) == ["w"]
    refused(weights.path, "key head: no tensors there", "'ema' (1 tensors)", container="head")


@pytest.mark.parametrize("checkpoint,words", [
    ({"student": {"w": torch.ones(2)}, "teacher": {"w": torch.ones(2)}}, ["'student' (1 tensors), 'teacher'"]),
    ({"model": {"w": torch.ones(2)}, "state_dict": {"w": torch.ones(2)}}, ["'model' (1 tensors), 'state_dict'"]),
    ({"epoch": 3}, ["found a dict and no tensors in it"]),
    (torch.nn.Linear(2, 2), ["found an object of 'torch.nn.modules.linear.Linear'", "state_dict()"]),
    ([torch.ones(2)], ["found a list and no tensors"]),
    ({0: {"w": torch.ones(2)}, 1: {"w": torch.ones(2)}}, ["'<0>' (1 tensors), '<1>'"]),
])
def test_no_model_or_several(tmp_path, checkpoint, words):
    refused(save(checkpoint, tmp_path / "x.pt"), *words)


@pytest.mark.parametrize("tensor,word", [
    (torch.ones(4, 6)[:, :3], "has gaps or uses elements twice"),
    (torch.ones(1).expand(3), "has gaps or uses elements twice"),
    (torch.ones(4)[::2], "has gaps or uses elements twice"),
    (torch.ones(2, dtype=torch.complex64), "type that cannot be merged"),
    (torch.eye(2).to_sparse(), "_rebuild_sparse_tensor"),
    (torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
])
def test_tensors_that_are_no_plain_ones(tmp_path, tensor, word):
    refused(save({"model": {"layer.w": tensor}}, tmp_path / "x.pt"), "key layer.w", word)


def test_tensors_with_attributes_are_tensors(tmp_path):
    tensor = torch.nn.Parameter(torch.randn(3))
    tensor.kind = "bias"
    assert_same(read_torch_header(save({"w": tensor}, tmp_path / "x.pt")), {"w": tensor})


def test_nan_is_refused_by_name(tmp_path):
    entries = read_torch_header(save({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "x.pt"))
    with pytest.raises(SpeechMergeError, match="key w: 1 of 2 values are NaN"):
        read_tensor(entries["w"])


# --- archives -------------------------------------------------------------------------------------------------------


def rewritten(source, target, change=lambda name, data: data, **options):
    """The archive again, as another program would write it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for item in old.infolist():
            data = change(item.filename, old.read(item))
            if data is not None:
                new.writestr(item.filename, data)
    return target


def test_damaged_archives(tmp_path):
    source = save({"w": torch.randn(40), "v": torch.randn(3)}, tmp_path / "weights.pt")
    target = tmp_path / "other.pt"
    refused(rewritten(source, target, compression=zipfile.ZIP_DEFLATED), "compressed or encrypted")
    refused(rewritten(source, target, lambda name, data: None if name.endswith("data/0") else data),
            "key w: its storage '0' is missing")
    refused(rewritten(source, target, lambda name, data: data[:-4] if name.endswith("data/0") else data),
            "key w: its storage has 156 bytes, expected 160")
    refused(rewritten(source, target, lambda name, data: b"big" if name.endswith("byteorder") else data), "big-endian")
    refused(rewritten(source, target, lambda name, data: None if name.endswith("data.pkl") else data),
            "without the one data.pkl")
    assert_same(read_torch_header(rewritten(source, target)), torch.load(source))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("second/data.pkl", b"x")
    refused(target, "without the one data.pkl")


@pytest.mark.parametrize("tensor", [torch.ones(40), torch.arange(40.0).reshape(5, 8).t(), torch.ones(80)[40:]])
def test_a_flipped_bit_is_found_by_the_checksum(tmp_path, tensor):
    path = save({"w": tensor, "v": torch.ones(3)}, tmp_path / "weights.pt")
    whole = bytearray(path.read_bytes())
    whole[open_torch_file(path).entries["w"].stop - 1] ^= 1
    path.write_bytes(whole)
    torch.load(path)  # torch does not notice
    weights = open_torch_file(path)
    assert torch.equal(read_tensor(weights.entries["v"]), torch.ones(3))
    with pytest.raises(SpeechMergeError, match="key w: 'weights/data/0' is damaged .CRC-32"):
        read_elements(weights.entries["w"], 0, 1)
    with pytest.raises(SpeechMergeError, match="'weights/data/0' is damaged .CRC-32"):
        weights.verify()
    with pytest.raises(SpeechMergeError, match="'weights/data/0' is damaged .CRC-32"):
        write_torch_file(path, tmp_path / "new.pt", {"w": blocks(tensor)})


def test_files_saved_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(some_weights(), tmp_path / "weights.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    weights = open_torch_file(path)
    weights.verify()
    assert_same(weights.entries, some_weights())


def test_zip64(tmp_path):
    """Sizes and offsets in 64-bit fields, as in files of more than 4 GB."""
    source = save(some_weights(), tmp_path / "weights.pt")
    plain = rewritten(source, tmp_path / "plain.pt").read_bytes()
    end = plain.rindex(b"PK\5\6")
    count, length, first = struct.unpack_from("<HLL", plain, end + 10)
    directory, at = b"", first
    for _ in range(count):
        fields = list(struct.unpack_from("<4s6H3L5H2L", plain, at))
        name = plain[at + 46 : at + 46 + fields[10]]
        extra = struct.pack("<2H3Q", 1, 24, fields[9], fields[8], fields[16])
        fields[8] = fields[9] = fields[16] = 0xFFFFFFFF
        at += 46 + fields[10] + fields[11] + fields[12]
        fields[11], fields[12] = len(extra), 0
        directory += struct.pack("<4s6H3L5H2L", *fields) + name + extra
    wide = plain[:first] + directory
    wide += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), first)
    wide += struct.pack("<4sLQL", b"PK\6\7", 0, first + len(directory), 1)
    wide += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path = tmp_path / "wide.pt"
    path.write_bytes(wide)
    assert zipfile.ZipFile(path).testzip() is None  # it is a right zip64 archive
    assert_same(read_torch_header(path), some_weights())
    write_torch_file(path, tmp_path / "again.pt", {"half": lambda: [bytes(12)]})
    assert zipfile.ZipFile(tmp_path / "again.pt").testzip() is None


def test_no_checkpoints_at_all(tmp_path):
    path = tmp_path / "x.pt"
    refused(path, "No such file")
    refused(tmp_path, "Is a directory")
    for data in (b"", b"P", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80\x02}.", b"\x80\x02" + bytes(40), b"{}",
                 pickle.dumps({"w": 1}), b"#!/bin/sh\n" * 100):
        path.write_bytes(data)
        refused(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    refused(path, "TorchScript")


def test_legacy_file_cut_off_or_too_long(tmp_path):
    path = save({"w": torch.randn(40)}, tmp_path / "weights.pt", LEGACY)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, "storage", "40 elements")
    path.write_bytes(whole + b"\0")
    refused(path, "its storages end at")


# --- hostile pickles ------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __reduce__(self):
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


def evil(marker):
    """Everything that would leave a trace if it ran."""
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    return [
        Call(os.system, touch),
        Call(eval, code),
        Call(exec, code),
        Call(subprocess.check_output, ["touch", str(marker)]),
        Call(open, str(marker), "w"),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(Call(getattr, Call(__import__, "os"), "system"), touch),
        Call(torch.load, str(marker)),
        Call(torch.save, [1], str(marker)),
        Call(collections.OrderedDict, [(Call(os.system, touch), Call(eval, code))]),
        Call(collections.defaultdict, Call(os.system, touch), {"x": Call(os.system, touch)}),
        Call(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (touch,), {}),
        Call(argparse.Namespace, state={"x": Call(os.system, touch)}),
    ]


class Forgiving(pickle._Pickler):
    """Writes what cannot be pickled honestly: a call of something that is no function."""

    def save_reduce(self, func, args, state=None, *more, **options):
        self.save(func)
        self.save(args)
        self.write(pickle.REDUCE)
        if state is not None:
            self.save(state)
            self.write(pickle.BUILD)


def dump(value, file, protocol=2):
    Forgiving(file, protocol).dump(value)


@FORMATS
@pytest.mark.parametrize("place", ["beside", "in the model", "as the model", "as a key", "as a tensor"])
def test_nothing_ever_runs(tmp_path, format_, place):
    marker = tmp_path / "marker"
    module = types.SimpleNamespace(__name__="pickle", Pickler=Forgiving, dump=dump)
    for number, call in enumerate(evil(marker)):
        weights = {"w": torch.arange(3.0)}
        checkpoint = {
            "beside": {"args": call, "model": weights},
            "in the model": {"model": {**weights, "x": call}},
            "as the model": {"model": call},
            "as a key": {"model": weights, call: call},
            "as a tensor": {"model": Call(torch._utils._rebuild_parameter, call, True, None)},
        }[place]
        path = tmp_path / f"{number}.pt"
        torch.save(checkpoint, path, pickle_module=module, **format_)
        try:
            entries = read_torch_header(path)
        except SpeechMergeError as error:
            assert place in ("as the model", "as a tensor") or "made by 'posix.system', which cannot be" in str(error)
        else:
            assert torch.equal(read_tensor(entries["w"]), weights["w"])
        assert not marker.exists()


def raw(path, data: bytes):
    """A checkpoint with this data.pkl."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/data/0", bytes(8))
    return path


DEEP = b"(" * 100_000 + b"t" * 100_000
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE


def tensor(offset: bytes, shape: bytes, strides: bytes) -> bytes:
    return b"\x80\x02}X\x01\0\0\0w" + TENSOR + offset + shape + strides + b"\x89NtRs."


def test_tensor_by_hand(tmp_path):
    """What the next test breaks is right as it is."""
    entry = read_torch_header(raw(tmp_path / "x.pt", tensor(b"K\0", b"(K\2t", b"(K\1t")))["w"]
    assert (entry.dtype, entry.shape, entry.stop - entry.start) == ("F32", (2,), 8)


@pytest.mark.parametrize("data", [
    pytest.param(b"\x80\x02}r\xff\xff\xff\xff.", id="memo index 4 G"),
    pytest.param(b"\x80\x02X\xff\xff\xff\xff.", id="string of 4 GB"),
    pytest.param(b"\x80\x02\x8d" + b"\xff" * 8 + b".", id="string of 2^64 bytes"),
    pytest.param(b"\x80\x02\x8b\xff\xff\xff\x7f.", id="number of 2 GB"),
    pytest.param(b"\x80\x02" + DEEP + b".", id="tuples nested 100,000 deep"),
    pytest.param(b"\x80\x02}" + DEEP + b"Ns.", id="as a key"),
    pytest.param(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", id="lists nested"),
    pytest.param(b"\x80\x02" + b"}K\x01" * 100_000 + b"}" + b"s" * 100_000 + b".", id="dicts nested"),
    pytest.param(b"\x80\x02}q\0K\x01h\0s.", id="a dict in itself"),
    pytest.param(b"\x80\x02}q\0K\x01h\0sK\x02h\0s.", id="a dict in itself twice"),
    pytest.param(b"\x80\x02" + b"(" * 600_000, id="marks"),
    pytest.param(b"\x80\x02}q\0" + b"".join(b"}(K\1h%cK\2h%cuq%c" % (i, i, i + 1) for i in range(30)) + b".",
                 id="2^30 leaves"),
    pytest.param(b"\x80\x02]q\0" + b"(" + b"K\1K\1\x86" * 30_000 + b"eccollections\nOrderedDict\nq\1(h\0tR"
                 + b"h\1(h\0tR" * 10_000 + b".", id="copies of a long list"),
    pytest.param(b"\x80\x02(" + b"K\1" * 90_000 + b"tq\0" + b"cx\ny\nh\0R" * 80_000 + b".", id="many arguments"),
    pytest.param(tensor(b"K\0", b"(J\xff\xff\xff\xfft", b"(K\1t"), id="negative shape"),
    pytest.param(tensor(b"K\0", b"(K\3t", b"(K\1t"), id="longer than its storage"),
    pytest.param(tensor(b"K\1", b"(K\2t", b"(K\1t"), id="beyond its storage"),
    pytest.param(tensor(b"K\0", b"(" + b"J\xff\xff\xff\x7f" * 60 + b"t", b"(" + b"K\1" * 60 + b"t"), id="huge shape"),
    pytest.param(tensor(b"K\0", b"(" + b"K\1" * 100_000 + b"t", b"(" + b"K\1" * 100_000 + b"t"), id="many dimensions"),
    pytest.param(tensor(b"K\0", b"(\x8a\x20" + b"\x7f" * 32 + b"t", b"(K\1t"), id="shape beyond 64 bits"),
    pytest.param(tensor(b"\x8a\x09" + b"\x01" * 9, b"(K\2t", b"(K\1t"), id="offset beyond 64 bits"),
    pytest.param(b"\x80\x02}X\x01\0\0\0wh\x07s.", id="memo that is not there"),
    pytest.param(b"\x80\x02s.", id="empty stack"),
    pytest.param(b"\x80\x02Q.", id="no storage"),
    pytest.param(b"\x80\x02I01\n.", id="instruction of protocol 0"),
    pytest.param(b"\x80\x02ios\nsystem\n.", id="INST"),
    pytest.param(b"\x80\x02\x82\x01.", id="EXT1"),
    pytest.param(b"\x80\x02cos\nsystem", id="name without an end"),
    pytest.param(b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.", id="long name"),
    pytest.param(b"\x80\x02}X\x03\0\0\0a\nb" + TENSOR + b"K\0(K\2t(K\1t\x89NtRs.", id="name of two lines"),
    pytest.param(b"\x80\x02}X\x03\0\0\0\xed\xa0\x80" + TENSOR + b"K\0(K\2t(K\1t\x89NtRs.", id="name that is no text"),
])
def test_bombs_and_nonsense(tmp_path, data, monkeypatch):
    """With a tenth of the instructions that are allowed, and a tenth of the memory that they may need."""
    monkeypatch.setattr(torch_pickle, "MOST_STEPS", torch_pickle.MOST_STEPS // 10)
    path = raw(tmp_path / "x.pt", data)
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 60 << 20
    finally:
        tracemalloc.stop()


def test_limits_leave_room_for_large_checkpoints(tmp_path):
    """1,000 tensors and a dictionary of 250,000 units."""
    units = {f"▁unit{number}": number for number in range(250_000)}
    model = {f"layer.{number}.weight": torch.ones(2) for number in range(1000)}
    path = save({"model": model, "task_state": {"symbols": list(units), "indices": units}}, tmp_path / "x.pt")
    assert len(read_torch_header(path)) == 1000
    data = zipfile.ZipFile(path).read("x/data.pkl")
    machine = torch_pickle.Machine(BytesIO(data), len(data))
    machine.load()
    assert torch_pickle.MOST_STEPS - machine.steps < torch_pickle.MOST_STEPS / 3


def broken_copies(whole: bytes, count: int):
    chance = random.Random(0)
    for number in range(count):
        data = bytearray(whole)
        if number % 4 == 3:
            data = data[: chance.randrange(len(data))]
        else:
            for _ in range(chance.choice((1, 1, 1, 4, 30))):
                data[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(data)


@FORMATS
def test_broken_files_are_refused_or_right(tmp_path, format_):
    """The archive's checksums find every change; without them (before 1.6) what is read is what torch reads."""
    weights = {"model": {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(3).half(), "steps": torch.tensor(3),
                         "t": torch.randn(3, 2).t()}, "epoch": 3}
    whole = save(weights, tmp_path / "whole.pt", format_).read_bytes()
    path, right, wrong = tmp_path / "broken.pt", 0, 0
    for data in broken_copies(whole, 300):
        path.write_bytes(data)
        tracemalloc.start()
        try:
            found = open_torch_file(path)
            values = {name: bytes(entry.bytes(0, entry.stop - entry.start)) for name, entry in found.entries.items()}
        except SpeechMergeError as error:
            assert str(path) in str(error) and str(error).isprintable()
            wrong += 1
            continue
        finally:
            assert tracemalloc.get_traced_memory()[1] < 50 << 20
            tracemalloc.stop()
        right += 1
        expected = weights["model"]
        if format_ is LEGACY and not unchanged(found, values, expected):
            expected = torch.load(path, weights_only=True)
            expected = expected.get(found.container, expected)
        assert unchanged(found, values, expected)
    assert right > 20 and wrong > 100


def unchanged(found, values, expected) -> bool:
    expected = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
    return sorted(values) == sorted(expected) and all(
        found.entries[name].shape == tuple(tensor.shape) and values[name] == tensor.contiguous().numpy().tobytes()
        for name, tensor in expected.items()
    )


def test_torch_is_not_imported(tmp_path):
    path = save(fairseq_checkpoint(), tmp_path / "hubert.pt")
    code = ("import sys\nfrom speechmerge.storage import torch_write\n"
            "from speechmerge.storage.torch_file import open_torch_file\n"
            f"print(len(open_torch_file({str(path)!r}).entries))\n"
            "print([name for name in ('torch', 'numpy', 'omegaconf', 'fairseq', 'argparse') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == str(len(hubert()))
    assert "'torch'" not in done.stdout and "'omegaconf'" not in done.stdout


# --- writing back ---------------------------------------------------------------------------------------------------


def blocks(tensor, size=5):
    """The bytes of a tensor in blocks that respect nothing."""
    data = raw_bytes(tensor)
    return lambda: (data[first : first + size] for first in range(0, len(data), size))


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return (first.dtype, first.stride()) == (second.dtype, second.stride()) and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return vars(first) == vars(second) if hasattr(first, "__dict__") else first == second


@FORMATS
def test_base_plus_delta_written_back(tmp_path, format_):
    checkpoint = fairseq_checkpoint()
    source = save(checkpoint, tmp_path / "hubert.pt", format_)
    torch.manual_seed(1)
    deltas = {name: torch.randn_like(tensor) for name, tensor in list(checkpoint["model"].items())[::2]}
    merged = {name: checkpoint["model"][name] + delta for name, delta in deltas.items()}
    write_torch_file(source, tmp_path / "merged.pt", {name: blocks(tensor, 1000) for name, tensor in merged.items()})
    loaded = torch.load(tmp_path / "merged.pt", weights_only=False)
    checkpoint["model"].update(merged)
    assert same(loaded, checkpoint)
    weights = open_torch_file(tmp_path / "merged.pt")
    weights.verify()
    assert_same(weights.entries, checkpoint["model"])
    assert os.path.getsize(source) == os.path.getsize(tmp_path / "merged.pt")
    if format_ is ZIP:
        assert zipfile.ZipFile(tmp_path / "merged.pt").testzip() is None  # every checksum is right
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "merged.pt") as new:
            for before, after in zip(old.infolist(), new.infolist(), strict=True):
                assert (before.filename, before.header_offset) == (after.filename, after.header_offset)
                if "/data/" not in before.filename:
                    assert old.read(before) == new.read(after)


@FORMATS
def test_every_kind_of_tensor_written_back(tmp_path, format_):
    weights = some_weights(format_)
    source = save(weights, tmp_path / "weights.pt", format_)
    changed = {name: (tensor.detach().float() * 2 + 1).to(tensor.dtype) for name, tensor in weights.items()}
    write_torch_file(source, tmp_path / "new.pt", {name: blocks(tensor) for name, tensor in changed.items()})
    assert_same(read_torch_header(tmp_path / "new.pt"), changed)
    loaded = torch.load(tmp_path / "new.pt", weights_only=False)
    assert all(torch.equal(loaded[name].float(), changed[name].float()) for name in changed)
    assert loaded["tied"] is loaded["encoder.weight"] and loaded["transposed"].stride() == (1, 6)


def test_nothing_replaced_is_the_same_file(tmp_path):
    source = save(fairseq_checkpoint(), tmp_path / "a.pt")
    write_torch_file(source, tmp_path / "b.pt", {})
    assert source.read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_checksums_are_right_in_archives_of_others(tmp_path):
    source = save({"w": torch.ones(4), "v": torch.ones(2)}, tmp_path / "weights.pt")
    other = rewritten(source, tmp_path / "other.pt")  # no descriptors: the checksum stands in the local header
    write_torch_file(other, tmp_path / "new.pt", {"w": blocks(torch.arange(4.0))})
    assert zipfile.ZipFile(tmp_path / "new.pt").testzip() is None
    assert torch.equal(torch.load(tmp_path / "new.pt")["w"], torch.arange(4.0))


def test_tied_weights(tmp_path):
    embedding = torch.randn(4, 3)
    source = save({"model": {"in": embedding, "out": embedding.view(4, 3), "row": embedding[1]}}, tmp_path / "x.pt")
    new = embedding + 1
    write_torch_file(source, tmp_path / "y.pt", {"out": blocks(new), "in": blocks(new), "row": blocks(new[1])})
    loaded = torch.load(tmp_path / "y.pt")["model"]
    assert torch.equal(loaded["in"], new) and torch.equal(loaded["out"], new) and torch.equal(loaded["row"], new[1])

    def write(replace):
        write_torch_file(source, tmp_path / "z.pt", replace)

    with pytest.raises(SpeechMergeError, match="key out shares its memory with key in, but they would become diff"):
        write({"in": blocks(new), "out": blocks(new + 1), "row": blocks(new[1])})
    with pytest.raises(SpeechMergeError, match="key in shares its memory with key (out|row), which is not to be"):
        write({"in": blocks(new)})
    parts = save({"a": embedding[:3], "b": embedding[1:]}, tmp_path / "parts.pt")
    with pytest.raises(SpeechMergeError, match="keys a and b share memory in different ways"):
        write_torch_file(parts, tmp_path / "z.pt", {"a": blocks(new[:3]), "b": blocks(new[1:])})


@pytest.mark.parametrize("elsewhere", [lambda model: {"ema": {"w": model["w"]}}, lambda model: {"ema": model},
                                       lambda model: {"best": [model["w"].view(2, 2)]},
                                       lambda model: {"best": argparse.Namespace(w=model["w"][1:])}])
def test_weights_that_others_in_the_file_use(tmp_path, elsewhere):
    model = {"w": torch.ones(4), "v": torch.ones(2)}
    source = save({"model": model, **elsewhere(model)}, tmp_path / "x.pt")
    with pytest.raises(SpeechMergeError, match="key [wv] shares its memory with a tensor"):
        write_torch_file(source, tmp_path / "y.pt", {"w": blocks(model["w"]), "v": blocks(model["v"])})


def test_wrong_sizes_and_names(tmp_path):
    source = save({"w": torch.ones(4)}, tmp_path / "x.pt")
    for replace, word in (({"x": blocks(torch.ones(4))}, "key x is not among its 1 weights"),
                          ({"w": blocks(torch.ones(3))}, "key w: not every one of its 16 bytes was written once"),
                          ({"w": blocks(torch.ones(5))}, "key w: made 20 bytes, expected 16")):
        with pytest.raises(SpeechMergeError, match=word):
            write_torch_file(source, tmp_path / "y.pt", replace)
    with pytest.raises(SpeechMergeError, match="written over itself"):
        write_torch_file(source, source, {"w": blocks(torch.ones(4))})
    assert torch.equal(torch.load(source)["w"], torch.ones(4))


def by_threads(function, items):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(function, items))


def by_processes(function, items):
    """Each of four copies of this process does a quarter."""
    children = []
    for number in range(4):
        if not (child := os.fork()):
            try:
                for item in items[number::4]:
                    function(item)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("do", [by_threads, by_processes])
def test_tensors_from_threads_and_processes_in_any_order(tmp_path, do):
    weights = {f"layer.{number}": torch.randn(64, 32).bfloat16() for number in range(20)}
    weights["turned"] = torch.randn(32, 64).bfloat16().t()
    weights["tied"] = weights["layer.3"]
    source = save({"state_dict": weights}, tmp_path / "x.pt")
    new = {name: tensor.float().contiguous() * 3 for name, tensor in weights.items()}
    parts = [(name, row) for name in weights for row in range(0, 64, 8)]
    random.Random(0).shuffle(parts)

    def write(part):
        name, row = part
        writer.write(writer.slots[name], 32 * row, new[name][row : row + 8])

    with TorchWriter(open_torch_file(source), tmp_path / "y.pt", weights) as writer:
        do(write, parts)
        writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pt", "y.pt"]
    loaded = torch.load(tmp_path / "y.pt")["state_dict"]
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in new.items())
    assert zipfile.ZipFile(tmp_path / "y.pt").testzip() is None


# --- from end to end ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_speech_ft_of_a_model_of_s3prl(tmp_path):
    """base + 0.25 (tuned - base) of a HuBERT that s3prl fine-tuned, in a file that s3prl loads."""
    hubert_model = pytest.importorskip("s3prl.upstream.hubert.hubert_model")
    from dataclasses import asdict

    from s3prl.upstream.hubert.expert import UpstreamExpert

    import speechmerge

    config = hubert_model.HubertConfig(
        label_rate=50, encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2,
        final_dim=8, conv_feature_layers="[(8,10,5)] + [(8,3,2)]*2", conv_pos=8, conv_pos_groups=2)
    task, symbols = hubert_model.HubertPretrainingConfig(), [["<s>", "<pad>", "</s>", "<unk>", "0", "1"]]
    torch.manual_seed(0)
    base, tuned = tmp_path / "hubert.pt", tmp_path / "dev-best.ckpt"
    torch.save({"task_cfg": asdict(task), "model_cfg": asdict(config), "dictionaries_symbols": symbols,
                "model_weight": hubert_model.HubertModel(config, task, symbols).state_dict()}, base)
    before = UpstreamExpert(str(base)).state_dict()
    after = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in before.items()}
    torch.save({"Upstream": after, "Featurizer": {"weights": torch.ones(3)}, "Downstream": {"w": torch.ones(2)},
                "Optimizer": {}, "Step": 7, "Args": argparse.Namespace(upstream="hubert"), "Config": {}}, tuned)
    vector = speechmerge.merge([tuned], method="interpolate", alpha=0.25, base=base)
    vector.save(tmp_path / "out", as_="full", base=base)
    merged = UpstreamExpert(str(tmp_path / "out" / "hubert.pt")).state_dict()
    assert list(merged) == list(before)
    for name, tensor in merged.items():
        moved = not name.startswith(("model.final_proj", "model.label_embs_concat"))  # the pre-training task's
        expected = before[name] + 0.25 * moved * (after[name] - before[name])
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)
