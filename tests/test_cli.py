"""The command line: configs under options, typed lists, one-line errors, exit statuses."""
import subprocess
import sys
import types

import pytest

from speechmerge import cli
from speechmerge.errors import UsageError
from speechmerge.options import CommaList, boolean, key_value, mapping_or_value, resolved


def verb():
    def add_arguments(parser):
        parser.add_argument("--adapters", nargs="+", action=CommaList, default=[], help="names")
        parser.add_argument("--grid", nargs="+", action=CommaList, item=float, default=[], help="numbers")
        parser.add_argument("--method", default="uniform", help="method")
        parser.add_argument("--rank", type=int, help="rank")
        parser.add_argument("--output-dir", help="folder")
        parser.add_argument("--force", type=boolean, default=False, help="redo")
        parser.add_argument("--param", type=key_value, action="append", default=[], help="k=v")
        parser.add_argument("--method-params", type=mapping_or_value, default={}, help="mapping")

    return types.SimpleNamespace(HELP="a verb for tests", add_arguments=add_arguments)


def parse(*argv):
    return cli.parse("verb", verb(), [str(word) for word in argv])


def test_lists_by_space_or_comma():
    assert parse("--adapters", "a", "b").adapters == ["a", "b"]
    assert parse("--adapters", "a,b", "c").adapters == ["a", "b", "c"]
    assert parse("--grid", "0.2,-0.5").grid == [0.2, -0.5]
    with pytest.raises(UsageError, match="expected float values, found '0.2 x'"):
        parse("--grid", "0.2,x")


def test_config_under_options_later_file_wins(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("adapters: [asr, kws]\nmethod: ties\nmethod_params: {k: 20, lambda: 0.4}\noutput-dir: x\nforce: true\nrank: null\n")
    two.write_text("method: dare\nrank: 8\n")
    args = parse("--config", one, "--config", two, "--rank", 4)
    assert (args.adapters, args.method, args.rank, args.output_dir, args.force) == (["asr", "kws"], "dare", 4, "x", True)
    assert args.method_params == {"k": 20, "lambda": 0.4}
    assert "config" not in resolved(args) and "force" not in resolved(args)


def test_negative_numbers_and_lists_in_configs(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("grid: [0.5, -0.2]\n")
    assert parse("--config", config).grid == [0.5, -0.2]


@pytest.mark.parametrize("text, message", [
    ("methd: ties\n", "unknown key 'methd'; did you mean 'method'"),
    ("- a\n", "expected `key: value` lines, found a list"),
    ("a: [\n", "cannot be read as YAML"),
    ("rank: many\n", "invalid int value: 'many'"),
    ("force: perhaps\n", "expected true or false, found 'perhaps'"),
])
def test_bad_config_is_named(tmp_path, text, message):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse("--config", config)


def test_missing_config():
    with pytest.raises(UsageError, match="not there"):
        parse("--config", "nowhere.yaml")


def test_values_keep_their_types():
    assert parse("--param", "k=20", "--param", "per_tensor=true").param == [("k", 20), ("per_tensor", True)]
    assert parse("--method-params", "{a: [1, 2]}").method_params == {"a": [1, 2]}


@pytest.mark.parametrize("argv, message", [
    (["--adaptrs", "a"], "did you mean '--adapters'"),
    (["--rank", "x"], "invalid int value"),
    (["--rank"], "expected one argument"),
    (["stray"], "unexpected 'stray'"),
    (["--param", "k"], "expected KEY=VALUE"),
])
def test_wrong_usage(argv, message):
    with pytest.raises(UsageError, match=message):
        parse(*argv)


def run(*words):
    return subprocess.run([sys.executable, "-m", "speechmerge", *words], capture_output=True, text=True)


def test_exit_statuses():
    assert run("--help").returncode == 0
    assert run().returncode == 2
    typo = run("lst")
    assert typo.returncode == 2 and typo.stderr.count("\n") == 1 and "did you mean 'list'" in typo.stderr
    missing = run("list", "adapters", "--exp-dir", "/nowhere")
    assert missing.returncode == 1 and missing.stderr == "speechmerge: /nowhere/adapters.json: not there\n"
    assert "Traceback" in run("list", "adapters", "--exp-dir", "/nowhere", "--debug").stderr


def test_help_does_not_import_torch():
    code = "import sys; from speechmerge.cli import main; main(['--help']); assert 'torch' not in sys.modules, 'torch imported'"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
