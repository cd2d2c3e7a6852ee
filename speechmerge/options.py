"""Types of command line options that several verbs share, and what a verb records of its options."""
import argparse

import yaml

from speechmerge.errors import UsageError


def boolean(text) -> bool:
    """true or false, as in the recipes (`--force true`)."""
    if isinstance(text, bool):
        return text
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


class CommaList(argparse.Action):
    """Lists are given as `a b c` or `a,b,c`: use with nargs="+" (or "*"), without `type`; `item=float` converts the items."""

    def __init__(self, *args, item=str, **kwargs):
        super().__init__(*args, **kwargs)
        self.item = item

    def __call__(self, parser, namespace, values, option_string=None):
        words = [word for value in values for word in value.split(",") if word]
        try:
            setattr(namespace, self.dest, [self.item(word) for word in words])
        except ValueError:
            parser.error(f"argument {option_string}: expected {self.item.__name__} values, found {' '.join(words)!r}")


def key_value(text: str) -> tuple[str, object]:
    """`k=20` -> ("k", 20): the value is read as YAML, so numbers, true/false and [lists] have their types."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text!r}")
    return key.strip(), mapping_or_value(value)


def mapping_or_value(text):
    """A YAML value on the command line, `{k: 20}` or `0.3`; a mapping from a config file arrives here as JSON."""
    if not isinstance(text, str):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid YAML ({' '.join(str(error).split())})") from error


def resolved(args) -> dict:
    """The options as they were used, to be stored beside a result; what does not change a result is left out."""
    return {key: value for key, value in sorted(vars(args).items()) if key not in ("config", "debug", "force")}


SPLITS = {"validation": "dev", "valid": "dev", "val": "dev", "devel": "dev"}  # what others call the split we call dev


def split_name(text: str) -> str:
    """The folder name of a split: `validation` and its short forms are `dev`."""
    return SPLITS.get(text, text)


def check_speeds(speeds):
    """Raises UsageError for a factor that is no speed."""
    for speed in speeds:
        if not 0.5 <= speed <= 2 or round(speed, 2) != speed:
            raise UsageError(f"--speeds: found {speed:g}, expected factors from 0.5 to 2 in hundredths, as 0.9")
