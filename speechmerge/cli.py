"""speechmerge VERB [--config FILE.yaml ...] [--option value ...]

Every verb is one module of speechmerge.stages. A config file sets defaults for the same names as the options, options
override it, and unknown names are refused. Exit status: 0 done, 1 failed, 2 wrong usage.
"""
import argparse
import importlib
import json
import logging
import os
import pkgutil
import sys
import traceback

import configargparse

from speechmerge.config import as_argument, merge_configs
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.options import mapping_or_value
from speechmerge.registry import nearest


def main(argv=None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would otherwise warn on every batch
    debug = "--debug" in argv
    try:
        return _dispatch(argv)
    except SpeechMergeError as error:
        return _fail(str(error), debug, 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:  # `speechmerge list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", False, 130)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (unexpected; --debug shows where)", debug, 1)


def _fail(message: str, debug: bool, status: int) -> int:
    if debug:
        traceback.print_exc()
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)  # names may hold anything
    print(f"speechmerge: {line}", file=sys.stderr)
    return status


def _dispatch(argv) -> int:
    if not argv:
        print(overview(), file=sys.stderr)
        return 2
    if argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        from speechmerge import __version__

        print(__version__)
        return 0
    module = verb_module(argv[0])
    args = parse(argv[0], module, argv[1:])
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.INFO, stream=sys.stderr,
                        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "urllib3", "matplotlib", "fsspec", "numba"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return module.run(args) or 0


def verbs() -> list[str]:
    import speechmerge.stages as stages

    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(stages.__path__))


def verb_module(verb: str):
    if verb not in verbs():
        raise UsageError(f"unknown verb {verb!r}; {nearest(verb, verbs())}")
    return importlib.import_module("speechmerge.stages." + verb.replace("-", "_"))


def overview() -> str:
    lines = [f"  {verb:<17} {verb_module(verb).HELP}" for verb in verbs()]
    return "\n".join(["usage: speechmerge VERB [--config FILE.yaml ...] [--option value ...]", "", *lines, "",
                      "speechmerge VERB --help lists a verb's options."])


class Parser(configargparse.ArgumentParser):
    """Errors are one line and name the nearest option."""

    def error(self, message):
        raise UsageError(f"{self.prog.split()[-1]}: {message}")


def build_parser(verb: str, module) -> Parser:
    parser = Parser(prog=f"speechmerge {verb}", description=module.HELP, allow_abbrev=False, add_help=True,
                    config_file_parser_class=configargparse.YAMLConfigFileParser,
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    module.add_arguments(parser)
    parser.add_argument("--config", action="append", default=[], metavar="FILE.yaml",
                        help="defaults for these options; repeatable, later wins")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parse(verb: str, module, argv):
    """The options of a verb: command line over config files over defaults."""
    parser = build_parser(verb, module)
    known = {action.dest for action in parser._actions} - {"help", "config", "debug"}
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", action="append", default=[])
    config = merge_configs(early.parse_known_args(argv)[0].config, known, getattr(module, "translate", None))
    args, unknown = parser.parse_known_args(argv, config_file_contents=_config_text(parser, config))
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
        word = unknown[0].split("=")[0]
        hint = nearest(word, options) if word.startswith("-") else "every value needs its option before it"
        raise UsageError(f"{verb}: unexpected {unknown[0]!r}; {hint}")
    return args


def _config_text(parser, config: dict) -> str:
    """Config keys under their options' names, in the form configargparse reads."""
    import yaml

    actions = {action.dest: action for action in parser._actions if action.option_strings}
    given = {actions[key]: value for key, value in config.items() if value is not None}
    options = {action.option_strings[-1].lstrip("-"): _words(action, value) for action, value in given.items()}
    return yaml.safe_dump(options)


def _words(action, value):
    """A config value as the words of an option; an option that reads YAML gets its value whole."""
    whole = action.type is mapping_or_value and action.nargs is None
    return json.dumps(value, default=str) if whole else as_argument(value)
