"""Hostile inputs and hostile disks: each gives one clear line that names the file, or a right result, and nothing else.

Models here are folders of three small tensors: a merge by `uniform` of one of them is that model again, so that what
was saved can be compared with what the reference implementation of safetensors reads.
"""
import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from adapters import make_adapter, make_base
from safetensors.torch import load_file, save_file

import speechmerge
from speechmerge.cli import main
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_json
from speechmerge.merge.run import prepare
from speechmerge.storage.safetensors_file import read_tensor
from speechmerge.storage.torch_file import read_torch_header

WEIGHTS = "model.safetensors"
INDEX = WEIGHTS + ".index.json"
NAMES = ("l.0.b", "l.0.w", "l.1.w")


def load(path) -> dict:
    """In memory of its own: the file may be written anew."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def make_model(folder, seed, **more):
    folder.mkdir()
    torch.manual_seed(seed)
    tensors = {"l.0.b": torch.randn(4), "l.0.w": torch.randn(4, 3), "l.1.w": torch.randn(4, 3), **more}
    save_file(tensors, folder / WEIGHTS)
    write_json(folder / "config.json", {})
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hostile") / "base", 0)


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model", 1)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("hostile") / "whisper")


@pytest.fixture(scope="module")
def made_adapter(whisper):
    return make_adapter(whisper, whisper.parent / "asr", seed=1)


@pytest.fixture
def adapter(made_adapter, tmp_path):
    return shutil.copytree(made_adapter, tmp_path / "asr")


def merged(folder, base, out, as_="full", **options):
    """The tensors that a merge of `folder` alone saves."""
    speechmerge.merge([folder], base=base, **options).save(out, as_=as_, base=base)
    assert_clean(out.parent)
    return load(out / {"full": WEIGHTS, "delta": "delta.safetensors", "lora": "adapter_model.safetensors"}[as_])


def assert_clean(folder):
    """Nothing half-written stays behind."""
    assert not [path for path in folder.iterdir() if path.suffix in (".part", ".old")]


def refused(folder, *words, base=None, named=None, **options):
    """The merge is refused in one line that names a file or folder, and leaves nothing behind."""
    out = folder.parent / "out"
    with pytest.raises(SpeechMergeError) as caught:
        speechmerge.merge([folder], base=base, **options).save(out, as_="full" if base else "lora", base=base)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 3000, message
    assert str(named or folder) in message, message
    for word in words:
        assert word in message, message
    assert not out.exists()
    assert_clean(folder.parent)


# --- safetensors headers --------------------------------------------------------------------------------------------


def split(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put(path, header, body: bytes, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)


def entry(**values):
    return lambda header: header["l.0.w"].update(values)


def name(text):
    return lambda header: header.update({text: header.pop("l.0.w")})


HEADERS = {
    "overlap": lambda header: header["l.1.w"].update(data_offsets=header["l.0.w"]["data_offsets"]),
    "entry that is none": lambda header: header.update({"l.0.w": None}),
    "entry that is a list": lambda header: header.update({"l.0.w": [1, 2]}),
    "no dtype": lambda header: header["l.0.w"].pop("dtype") and None,
    "tensor missing": lambda header: header.pop("l.0.w") and None,
    **{f"shape {str(value)[:20]}": entry(shape=value) for value in (
        [-4, -3], [4, 3.0], [4, "3"], [True, 12], [2**70, 1], [2**40, 2**40], [0, 2**70], "43", None, {"4": 3},
        [[4], [3]], 12, [4, 3] + [1] * 1000, [], [12], [3, 4])},
    "shape of a million bits": entry(shape=[10**4000] * 60),
    "shape that takes an hour to multiply": entry(shape=[10**4000] * 3000),
    **{f"offsets {str(value)[:20]}": entry(data_offsets=value) for value in (
        [0], [0, 48, 3], [0, 2**80], [-48, 0], ["16", "64"], [16.0, 64.0], None, {"16": 1, "64": 2}, [64, 16], [0, 48],
        [2**63, 2**63 + 48])},
    **{f"dtype {value}": entry(dtype=value) for value in (
        "F64", "f32", "F8_E4M3", "C64", "F4", "", None, 3, ["F32"], {"F32": 1}, "F32\n")},
    **{f"name {text[:10]!a}": name(text) for text in (
        "", "l\n.0.w", "\x1b[31ml", "\ud800", "../../etc/passwd", "x" * 1_000_000, "l.0.w ")},
    "two wrongs": lambda header: header.update({"l\n0": {**header.pop("l.0.w"), "dtype": "X\n"}}),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_headers(model, base, change):
    header, body = split(model / WEIGHTS)
    change(header)
    put(model / WEIGHTS, header, body)
    refused(model, base=base)


TEXTS = {
    "a tensor twice": lambda text: text[:-1] + b',"l.0.w":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}}',
    "a field twice": lambda text: text.replace(b'"dtype": "F32"', b'"dtype": "I32", "dtype": "F32"', 1),
    "100,000 tensors twice": lambda text: b"{" + b",".join(b'"a%d":1' % (i % 50_000) for i in range(100_000)) + b"}",
    "dicts nested 100,000 deep": lambda text: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "lists nested 100,000 deep": lambda text: b"[" * 100_000 + b"]" * 100_000,
    "lists nested in a shape": lambda text: text.replace(b"[4, 3]", b"[" * 100_000 + b"]" * 100_000, 1),
    "NaN": lambda text: text.replace(b"[4, 3]", b"[4, NaN]", 1),
    "1e999": lambda text: text.replace(b"[4, 3]", b"[4, 1e999]", 1),
    "number of 10,000 digits": lambda text: text.replace(b"[4, 3]", b"[" + b"9" * 10_000 + b"]", 1),
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "bytes that are no text": lambda text: text.replace(b"l.0.w", b"l.\xff.w"),
    "list": lambda text: b"[" + text + b"]",
    "number": lambda text: b"3",
    "null": lambda text: b"null",
    "nothing": lambda text: b"",
    "cut off": lambda text: text[:-1],
    "NUL at the end": lambda text: text + b"\0" * 8,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS.keys())
def test_texts_of_headers(model, base, change):
    header, body = split(model / WEIGHTS)
    put(model / WEIGHTS, change(json.dumps(header).encode()), body)
    refused(model, WEIGHTS, base=base)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1, 10**8, 10**8 + 1])
def test_lengths_of_headers(model, base, length):
    header, body = split(model / WEIGHTS)
    put(model / WEIGHTS, header, body, length)
    refused(model, WEIGHTS, base=base)


@pytest.mark.parametrize("change", [lambda body: body + b"\0" * 8, lambda body: body[:-1], lambda body: b""])
def test_holes_and_ends(model, base, change):
    header, body = split(model / WEIGHTS)
    put(model / WEIGHTS, header, change(body))
    refused(model, WEIGHTS, base=base)


@pytest.mark.parametrize("change", [
    lambda header: header["l.0.w"].update(note="x"),
    lambda header: header.update(__metadata__=[1]),
    lambda header: header.update(__metadata__=dict(header["l.0.w"])),
    lambda header: json.dumps(dict(reversed(header.items()))).encode() + b" " * 9,
])
def test_harmless_headers(model, base, change):
    expected = load(model / WEIGHTS)
    header, body = split(model / WEIGHTS)
    put(model / WEIGHTS, change(header) or header, body)
    assert_equal(merged(model, base, model.parent / "out"), expected)


def assert_equal(found, expected):
    assert sorted(found) == sorted(expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-6, atol=1e-6, equal_nan=True)


def mutated(header: dict, body: bytes, chance: random.Random) -> bytes:
    """A file with one to four random changes of structure, values or bytes."""
    strange = [None, -1, 0, 1, 3, 2**31, 2**63, 2**64, 1e30, "", "F32", "I64", "BOOL", [], [1], [3, 4], [0, 48], {},
               True]
    for _ in range(chance.choice((1, 1, 2, 4))):
        key = chance.choice(sorted(header))
        kind = chance.randrange(6)
        if kind == 0:
            header[key] = chance.choice(strange)
        elif kind == 1 and isinstance(header[key], dict):
            header[key][chance.choice(("dtype", "shape", "data_offsets"))] = chance.choice(strange)
        elif kind == 2 and isinstance(header[key], dict):
            field = header[key].get(chance.choice(("shape", "data_offsets")))
            if isinstance(field, list) and field:
                field[chance.randrange(len(field))] = chance.choice(strange)
        elif kind == 3:
            header[chance.choice(strange[9:13]) + key] = header.pop(key)
        elif kind == 4:
            header[key + "x"] = header[key]
    text = bytearray(json.dumps(header).encode())
    if chance.random() < 0.4:
        text[chance.randrange(len(text))] = chance.randrange(256)
    data = len(text).to_bytes(8, "little") + bytes(text) + body
    return data[: chance.randrange(len(data))] if chance.random() < 0.1 else data


def test_random_headers(model, base):
    """Refused, or read as the reference implementation reads it."""
    path, out, right, wrong = model / WEIGHTS, model.parent / "out", 0, 0
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(400):
        path.write_bytes(whole)
        path.write_bytes(mutated(*split(path), chance))
        try:
            found = merged(model, base, out)
        except SpeechMergeError as error:
            assert str(model) in str(error) and str(error).isprintable() and not out.exists()
            wrong += 1
        else:
            assert_equal(found, load(path))
            shutil.rmtree(out)
            right += 1
        assert_clean(model.parent)
    assert right > 10 and wrong > 200


# --- values and shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_infinity(model, base, value, kind):
    tensors = load(model / WEIGHTS)
    tensors["l.0.w"] = tensors["l.0.w"].to(kind)
    tensors["l.0.w"][3, 2] = value
    save_file(tensors, model / WEIGHTS)
    refused(model, "key l.0.w: 1 of 12 values are NaN or infinite", base=base)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_types_that_are_no_weights(model, base, kind):
    """Left alone they would be a parameter that silently was not merged."""
    tensors = load(model / WEIGHTS)
    save_file({**tensors, "l.0.w": torch.ones(4, 3).to(kind)}, model / WEIGHTS)
    refused(model, "key l.0.w", base=base)


def test_base_of_integers_where_the_model_has_floats(model, tmp_path):
    base = make_model(tmp_path / "base", 0, **{"l.0.w": torch.ones(4, 3, dtype=torch.int32)})
    refused(model, "key l.0.w", base=base, named=base)


@pytest.mark.parametrize("as_", ["full", "delta"])
@pytest.mark.parametrize("method", ["uniform", "ties", "dare", "interpolate"])
def test_empty_tensors_and_scalars(tmp_path, method, as_):
    more = {"empty": torch.zeros(0, 3), "none": torch.zeros(3, 0), "scalar": torch.tensor(3.0), "one": torch.ones(1)}
    base = make_model(tmp_path / "base", 0, **more, steps=torch.tensor([7]))
    models = [make_model(tmp_path / f"{seed}", seed, **more, steps=torch.tensor([7])) for seed in (1, 2)]
    merged_ = speechmerge.merge(models, base=base, method=method)
    merged_.save(tmp_path / "out", as_=as_, base=base)
    if as_ == "full":
        found = load(tmp_path / "out" / WEIGHTS)
        assert {key: tuple(found[key].shape) for key in more} == {key: tuple(more[key].shape) for key in more}
        assert found["steps"].item() == 7 and all(torch.equal(found[key], more[key]) for key in more)
    else:
        again = speechmerge.merge([tmp_path / "out"], base=base)
        assert again.deltas["empty"].dense().shape == (0, 3) and again.deltas["none"].dense().shape == (3, 0)


def test_empty_factors_of_an_adapter(adapter):
    """in = 0 or out = 0: no parameter of any model; it must not end in a message of torch."""
    key = "base_model.model.model.encoder.layers.0.fc1.lora_A.weight"
    change_adapter(adapter, lambda tensors: tensors.update({key: torch.zeros(4, 0)}))
    with contextlib.suppress(SpeechMergeError):
        speechmerge.merge([adapter]).save(adapter.parent / "out")


def test_values_beyond_the_storage_type(tmp_path):
    base = make_model(tmp_path / "base", 0, half=torch.full((4,), 60000.0).half())
    tuned = make_model(tmp_path / "tuned", 1, half=torch.full((4,), 65000.0).half())
    vector = speechmerge.merge([tuned], base=base) * 2.0
    with pytest.raises(SpeechMergeError, match="key half: 4 merged values cannot be stored as F16"):
        vector.save(tmp_path / "out", as_="full", base=base)
    assert not (tmp_path / "out").exists()
    assert_clean(tmp_path)


def test_factors_whose_product_is_infinite(adapter):
    key = "base_model.model.model.encoder.layers.0.fc1.lora_B.weight"
    change_adapter(adapter, lambda tensors: tensors[key].fill_(3e38))
    with pytest.raises(SpeechMergeError, match="key model.encoder.layers.0.fc1.weight: .*infinite"):
        speechmerge.merge([adapter]).save(adapter.parent / "out")
    assert not (adapter.parent / "out").exists()
    assert_clean(adapter.parent)


# --- folders, indexes and links -------------------------------------------------------------------------------------


def shard(model, weight_map, text=None):
    os.rename(model / WEIGHTS, model / "a.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}) if text is None else text)


@pytest.mark.parametrize("value", [
    "../base/model.safetensors", "/etc/passwd", "..", ".", "", "a.safetensors\0", "..\\a.safetensors",
    "sub/a.safetensors", "./a.safetensors", "a.safetensors/", "b.safetensors", "a.bin", "a\n.safetensors",
    "x" * 5000 + ".safetensors", None, 3, ["a.safetensors"], {"a.safetensors": 1}, True,
], ids=lambda value: repr(value)[:20])
def test_path_tricks_in_an_index(model, base, value):
    shard(model, {**dict.fromkeys(NAMES, "a.safetensors"), "l.0.w": value})
    refused(model, INDEX, "key l.0.w", base=base)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"weight_map": []}', '{"weight_map": 3}',
                                  '{"weight_map": null}', '{"weight_map": {}}', "{", "[" * 100_000, "\ufeff{}"],
                         ids=lambda text: text[:20])
def test_indexes_that_are_none(model, base, text):
    shard(model, None, text)
    refused(model, INDEX, base=base)


def test_index_and_shards_disagree(model, base):
    shard(model, {**dict.fromkeys(NAMES, "a.safetensors"), "l.9.w": "a.safetensors"})
    refused(model, INDEX, "key l.9.w", base=base)
    save_file({"l.0.w": torch.ones(4, 3)}, model / "b.safetensors")
    weight_map = {**dict.fromkeys(NAMES, "a.safetensors"), "l.0.w": "b.safetensors"}
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(model, "key l.0.w also stands in", base=base)


def test_shards_that_are_right(model, base):
    expected = load(model / WEIGHTS)
    shard(model, dict.fromkeys(NAMES, "a.safetensors"))
    assert_equal(merged(model, base, model.parent / "out"), expected)


def test_links_to_weights_elsewhere(model, base, tmp_path):
    """As the hub's cache keeps them."""
    expected = load(model / WEIGHTS)
    os.rename(model / WEIGHTS, tmp_path / "blob")
    os.symlink("../blob", model / WEIGHTS)
    assert_equal(merged(model, base, tmp_path / "out"), expected)


@pytest.mark.parametrize("target", ["/nowhere/at/all", WEIGHTS, "/dev/zero", "/dev/null", "/proc/self/mem", "."])
def test_links_to_what_is_no_file(model, base, target):
    (model / WEIGHTS).unlink()
    os.symlink(target, model / WEIGHTS)
    refused(model, WEIGHTS, base=base)


@pytest.mark.timeout(20)
def test_a_pipe_instead_of_a_file(model, base):
    (model / WEIGHTS).unlink()
    os.mkfifo(model / WEIGHTS)
    refused(model, WEIGHTS, base=base)


def test_a_file_that_shrinks_after_it_was_opened(model, base):
    merge = prepare([model], base=base)
    os.truncate(model / WEIGHTS, os.path.getsize(model / WEIGHTS) - 4)
    with pytest.raises(SpeechMergeError, match="key l.1.w: file ended early"):
        merge.run().save(model.parent / "out", as_="full", base=base)
    assert not (model.parent / "out").exists()
    assert_clean(model.parent)


# --- notes and settings beside the weights --------------------------------------------------------------------------


NOTES = ["[]", "3", "null", '"x"', "{", "[" * 100_000, '{"base": "x"}', '{"base": [1]}', '{"base": {"source": 3}}',
         '{"base": {"source": ["x"]}}', '{"base": {"fingerprint": 4}}', '{"task": {"a": 1}}', '{"task": 3}',
         '{"language": []}']


@pytest.mark.parametrize("text", NOTES, ids=lambda text: text[:20])
def test_notes(model, base, text):
    (model / "speechmerge.json").write_text(text)
    refused(model, "speechmerge.json", base=base)


def change_adapter(folder, change):
    tensors = load(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


SETTINGS = [("r", "4"), ("r", 4.5), ("r", True), ("r", 10**400), ("r", float("nan")), ("r", -4), ("r", [4]),
            ("r", None), ("lora_alpha", float("nan")), ("lora_alpha", float("inf")), ("lora_alpha", 1e308),
            ("lora_alpha", 10**400),
            ("lora_alpha", True), ("lora_alpha", "8"), ("rank_pattern", [1]), ("rank_pattern", "x"),
            ("rank_pattern", {"(": 4}), ("rank_pattern", {"fc1": "4"}), ("rank_pattern", {"fc1": [4]}),
            ("alpha_pattern", {"fc1": "8"}),
            ("alpha_pattern", {"fc1": float("nan")}), ("alpha_pattern", {"fc1": None}),
            ("alpha_pattern", {"fc1": 10**400}), ("use_rslora", "no"), ("use_dora", "false"), ("use_rslora", 3),
            ("base_model_name_or_path", 3),
            ("base_model_name_or_path", ["x"]), ("peft_type", ["LORA"])]


@pytest.mark.parametrize("key,value", SETTINGS, ids=lambda value: str(value)[:20])
def test_settings_of_an_adapter(adapter, key, value):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(adapter, "adapter_config.json says" if value == 4.5 else f"adapter_config.json: key {key}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["(.*)*x", "(a+)+$", "(a|a)*b", ".*.*.*.*.*.*.*.*.*.*x"])
def test_patterns_that_never_end(adapter, pattern):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_pattern": {pattern: 4}}))
    refused(adapter, "adapter_config.json", "rank_pattern")


@pytest.mark.parametrize("pattern", [r"model.encoder.layers.\d+.fc1", r".*layers\.\d+\..*proj", "fc[12]", "fc1",
                                     r".*decoder.*\.(q_proj|v_proj)", r"encoder\.layers\.[0-1]\.fc1"])
def test_patterns_that_people_use(adapter, pattern):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_pattern": {pattern: 4}}))
    speechmerge.merge([adapter])


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{", "[" * 100_000, "{}",
                                  '{"peft_type": "LORA", "r": 4, "r": 8}'],
                         ids=lambda text: text[:20])
def test_settings_that_are_none(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    refused(adapter, "adapter_config.json")


@pytest.mark.parametrize("more", [
    {"fc1.lora_A": torch.ones(4, 32)},  # both styles of a key: which of them?
    {"fc1.weight": torch.ones(64, 32)},  # a LoRA of a module, and the module as a whole
    {"fc1.weight": torch.ones(64, 32), "fc1.base_layer.weight": torch.ones(64, 32)},
    {"fc1.lora_A.default.weight": torch.ones(4, 32)},
    {"x\ny.lora_A.weight": torch.ones(4, 32), "x\ny.lora_B.weight": torch.ones(64, 4)},
], ids=lambda more: " ".join(map(ascii, more)))
def test_two_weights_for_one_parameter_and_names_that_are_none(adapter, whisper, more):
    prefix = "base_model.model.model.encoder.layers.0."
    change_adapter(adapter, lambda tensors: tensors.update({prefix + key: value for key, value in more.items()}))
    with pytest.raises(SpeechMergeError, match="adapter_model.safetensors: key ") as caught:
        speechmerge.merge([adapter], base=whisper)
    assert str(caught.value).isprintable()


PARAMETER = "model.encoder.layers.0.fc1.weight"


@pytest.mark.parametrize("change", [
    lambda record: record["parameters"][PARAMETER].update(shape=[3, 3]),
    lambda record: record["parameters"][PARAMETER].update(shape=None),
    lambda record: record["parameters"][PARAMETER].update(shape=[64, -32]),
    lambda record: record["parameters"][PARAMETER].pop("shape"),
    lambda record: record["parameters"][PARAMETER].update(kind="x"),
    lambda record: record["parameters"].update({PARAMETER: 3}),
    lambda record: record["parameters"].pop(PARAMETER),  # its weights would be lost silently
    lambda record: record.update(parameters=[]),
    lambda record: record.update(parameters={}),
    lambda record: record.pop("parameters"),
    lambda record: record.update(base=[]),
    lambda record: record.update(base={"source": 3, "fingerprint": None}),
    lambda record: record.update(task={}),
], ids=range(13))
def test_deltas_that_are_none(adapter, change):
    folder = adapter.parent / "delta"
    speechmerge.merge([adapter]).save(folder, as_="delta")
    record = json.loads((folder / "delta.json").read_text())
    change(record)
    write_json(folder / "delta.json", record)
    refused(folder)


@pytest.mark.parametrize("key,tensor", [(f"{PARAMETER}.B", torch.ones(3, 3)), (f"{PARAMETER}.B", torch.ones(64, 9)),
                                        (f"{PARAMETER}.B", torch.ones(64, 4, dtype=torch.int32)),
                                        ("x.B", torch.ones(3, 3)), (f"{PARAMETER}.A", torch.ones(4, 32, 1))],
                         ids=range(5))
def test_weights_of_deltas_that_are_none(adapter, key, tensor):
    folder = adapter.parent / "delta"
    speechmerge.merge([adapter]).save(folder, as_="delta")
    save_file({**load(folder / "delta.safetensors"), key: tensor}, folder / "delta.safetensors")
    refused(folder, "delta.safetensors: key ")


# --- where the result goes ------------------------------------------------------------------------------------------


def test_output_that_is_a_link(model, base, tmp_path):
    """The link stays, the merge is where it points to."""
    expected = load(model / WEIGHTS)
    (tmp_path / "disk").mkdir()
    out = tmp_path / "out"
    out.symlink_to("disk")
    for _ in range(2):
        assert_equal(merged(model, base, out), expected)
        assert out.is_symlink() and (tmp_path / "disk" / WEIGHTS).is_file()
    assert_clean(tmp_path)


def test_output_that_is_a_dangling_link(model, base, tmp_path):
    (tmp_path / "out").symlink_to("disk")
    assert_equal(merged(model, base, tmp_path / "out"), load(model / WEIGHTS))
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / WEIGHTS).is_file()


def occupied(tmp_path, model):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "to file").symlink_to("file")
    (tmp_path / "to full").symlink_to("full")
    (tmp_path / "loop").symlink_to("loop")
    return [tmp_path / "file", tmp_path / "full", tmp_path / "to file", tmp_path / "to full", tmp_path / "loop", model,
            tmp_path, tmp_path / "file" / "below", tmp_path / ("x" * 300), tmp_path / "full" / "..",
            tmp_path / "loop" / "below"]


def contents(folder) -> list:
    """Every path that is not hidden, and what is in it."""
    return sorted((path, path.is_symlink() or path.is_file() and path.read_bytes()) for path in folder.rglob("[!.]*"))


@pytest.mark.parametrize("number", range(11))
def test_outputs_that_are_taken(model, base, tmp_path, number):
    out = occupied(tmp_path, model)[number]
    before = contents(tmp_path)
    with pytest.raises(SpeechMergeError) as caught:
        speechmerge.merge([model], base=base).save(out, as_="full", base=base)
    assert str(out) in str(caught.value)
    assert before == contents(tmp_path)
    assert_clean(tmp_path)


def test_empty_working_directory_as_output(model, base, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with contextlib.suppress(SpeechMergeError):
        speechmerge.merge([model], base=base).save(".", as_="full", base=base)
        assert_equal(load(tmp_path / "empty" / WEIGHTS), load(model / WEIGHTS))
    assert_clean(tmp_path)


def test_a_merge_that_replaces_its_own_input(model, base, tmp_path):
    expected = merged(model, base, tmp_path / "out")
    assert_equal(merged(tmp_path / "out", base, tmp_path / "out"), expected)


@contextlib.contextmanager
def largest_file(size: int):
    """Within the block no file can be longer, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("as_,size", [("full", 0), ("full", 100), ("full", 300), ("delta", 100), ("lora", 100),
                                      ("lora", 1000)])
def test_no_room_for_the_result(model, base, adapter, tmp_path, as_, size):
    """Whatever of it fits, an older merge stays as it is."""
    out, (source, start) = tmp_path / "out", (adapter, None) if as_ == "lora" else (model, base)
    speechmerge.merge([source], base=start).save(out, as_=as_, base=start)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for target in (out, tmp_path / "new"):
        vector = speechmerge.merge([source], base=start) * 0.5
        with largest_file(size), pytest.raises(SpeechMergeError, match=f"{target}: cannot be written"):
            vector.save(target, as_=as_, base=start)
        assert_clean(tmp_path)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before and not (tmp_path / "new").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of some pages; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(size: str, read_only=False):
        if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 1 if read_only else 0, f"size={size}".encode()):
            pytest.skip("may not mount")
        return place

    yield mount
    libc.umount2(str(place).encode(), 2)


@pytest.mark.parametrize("size", ["8k", "12k", "16k"])
def test_full_disk(model, base, small_disk, size):
    place = small_disk(size)
    with pytest.raises(SpeechMergeError, match="cannot be written .no space left"):
        for number in range(9):
            speechmerge.merge([model], base=base).save(place / f"{number}", as_="full", base=base)
    for folder in place.glob("[!.]*"):
        assert_equal(load(folder / WEIGHTS), load(model / WEIGHTS))
        assert json.loads((folder / "merge_metadata.json").read_text())["method"] == "uniform"
    assert_clean(place)


def test_read_only_disk(model, base, small_disk, capsys):
    place = small_disk("1m", read_only=True)
    with pytest.raises(SpeechMergeError, match="cannot be written .the file system is read-only"):
        speechmerge.merge([model], base=base).save(place / "out", as_="full", base=base)
    words = ("--adapters", model, "--base", base, "--save", "full", "--output-dir", place / "out")
    assert main(["merge", *map(str, words)]) == 1
    assert one_line(capsys) == f"speechmerge: {place / 'out'}: cannot be written (the file system is read-only); " \
        "nothing was changed, free space or choose another folder and run the same command again"


def one_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("speechmerge: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_two_merges_into_one_folder(model, base, tmp_path):
    """Whoever comes last wins, whole."""
    other = make_model(tmp_path / "other", 2)
    sources, out = [model, other], tmp_path / "out"
    expected = [load(source / WEIGHTS) for source in sources]
    start = threading.Barrier(4)

    def save(number):
        vector = speechmerge.merge([sources[number % 2]], base=base, threads=1)
        start.wait()
        for _ in range(5):
            vector.save(out, as_="full", base=base, threads=1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))
    found, record = load(out / WEIGHTS), json.loads((out / "merge_metadata.json").read_text())
    assert_equal(found, expected[sources.index(type(model)(record["adapters"][0]["path"]))])
    assert_clean(tmp_path)


def test_two_processes_into_one_folder(model, base, tmp_path):
    other = make_model(tmp_path / "other", 2)
    words = [sys.executable, "-m", "speechmerge", "merge", "--base", str(base), "--save", "full", "--output-dir",
             str(tmp_path / "out"), "--force", "true", "--adapters"]
    running = [subprocess.Popen([*words, str(source)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
               for source in (model, other, model)]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    record = json.loads((tmp_path / "out" / "merge_metadata.json").read_text())
    assert_equal(load(tmp_path / "out" / WEIGHTS), load(type(model)(record["adapters"][0]["path"]) / WEIGHTS))
    assert_clean(tmp_path)


def test_a_killed_merge_is_cleaned_up_by_the_next(model, base, tmp_path):
    code = ("import os, signal, sys, speechmerge.merge.save as save\n"
            "save.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "import speechmerge\n"
            "model, base, out = sys.argv[1:]\n"
            "speechmerge.merge([model], base=base).save(out, as_='full', base=base)")
    assert subprocess.run([sys.executable, "-c", code, model, base, tmp_path / "out"]).returncode == -9
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"]  # nobody could have removed it
    assert_equal(merged(model, base, tmp_path / "out"), load(model / WEIGHTS))


# --- checkpoints of PyTorch -----------------------------------------------------------------------------------------


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def checkpoint(tmp_path):
    """(a fine-tuned model, its base) as fairseq keeps them."""
    paths = []
    for number, name_ in enumerate(("tuned.pt", "base.pt")):
        torch.manual_seed(number)
        model = {"l.0.b": torch.randn(4), "l.0.w": torch.randn(4, 3), "l.1.w": torch.randn(3, 4).t()}
        torch.save({"args": None, "model": model, "epoch": number}, tmp_path / name_)
        paths.append(tmp_path / name_)
    return paths


def test_random_checkpoints(checkpoint, tmp_path):
    """A changed byte is found, or changes nothing that was meant."""
    path, base = checkpoint
    whole, expected, out = path.read_bytes(), torch.load(path)["model"], tmp_path / "out"
    chance, right = random.Random(0), 0
    for number in range(150):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data[: chance.randrange(len(data))] if number % 3 == 0 else data)
        try:
            speechmerge.merge([path], base=base).save(out, as_="full", base=base)
        except SpeechMergeError as error:
            assert str(path) in str(error) and str(error).isprintable() and not out.exists()
        else:
            found = torch.load(out / "base.pt")
            assert found["epoch"] == 1  # what stands around the weights is the base's
            assert_equal(found["model"], expected)
            shutil.rmtree(out)
            right += 1
        assert_clean(tmp_path)
    assert 10 < right < 100


@pytest.mark.parametrize("place", ["args", "model", "base"])
def test_checkpoints_that_would_run_something(checkpoint, tmp_path, place):
    marker, (path, base) = tmp_path / "marker", checkpoint
    target = base if place == "base" else path
    content = torch.load(target)
    if place == "model":
        content["model"]["l.0.x"] = Evil(f"touch {marker}")
    else:
        content["args"] = Evil(f"touch {marker}")
    torch.save(content, target)
    expected = content["model"] if target is path else torch.load(path)["model"]
    speechmerge.merge([path], base=base).save(tmp_path / "out", as_="full", base=base)
    speechmerge.merge([path], base=base).save(tmp_path / "delta", as_="delta")
    assert not marker.exists()
    delta = load(tmp_path / "delta" / "delta.safetensors")["l.0.w.dense"]
    found = read_torch_header(tmp_path / "out" / "base.pt")
    torch.testing.assert_close(read_tensor(found["l.0.w"]), expected["l.0.w"])
    torch.testing.assert_close(read_tensor(read_torch_header(base)["l.0.w"]) + delta, expected["l.0.w"])


def test_no_room_for_a_checkpoint(checkpoint, tmp_path):
    path, base = checkpoint
    for size in (0, 1000):
        with largest_file(size), pytest.raises(SpeechMergeError, match="cannot be written"):
            speechmerge.merge([path], base=base).save(tmp_path / "out", as_="full", base=base)
        assert not (tmp_path / "out").exists()
        assert_clean(tmp_path)


# --- the verb -------------------------------------------------------------------------------------------------------


def verb(capsys, *words) -> str:
    assert main(["merge", *map(str, words)]) == 1
    line = one_line(capsys)
    assert "unexpected" not in line and line.isprintable(), line
    return line


def test_verb_in_one_line(model, base, adapter, tmp_path, capsys):
    """Exit status 1 and one line that names file and key, for one of each kind."""
    header, body = split(model / WEIGHTS)
    options = ("--base", base, "--save", "full", "--output-dir", tmp_path / "out", "--adapters")
    for change, words in ((entry(shape=[-4, -3]), "key l.0.w"), (name("l\n.0.w"), "l\\n.0.w"),
                          (entry(dtype="X"), "key l.0.w")):
        changed = json.loads(json.dumps(header))
        change(changed)
        put(model / WEIGHTS, changed, body)
        line = verb(capsys, *options, model)
        assert str(model) in line and words in line
    put(model / WEIGHTS, header, body)
    for text in NOTES:
        (model / "speechmerge.json").write_text(text)
        assert "speechmerge.json" in verb(capsys, *options, model)
    (model / "speechmerge.json").unlink()
    assert "no\\nwhere" in verb(capsys, "--adapters", tmp_path / "no\nwhere")
    assert f"{model}: exists and is no merge" in verb(capsys, *options[:-2], model, "--adapters", model)
    assert not (tmp_path / "out").exists()
    assert_clean(tmp_path)
