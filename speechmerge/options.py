"""Types of command line options that several verbs share."""
import argparse

import yaml


def boolean(text) -> bool:
    """true or false, as in the recipes (`--force true`)."""
    if isinstance(text, bool):
        return text
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


class CommaList(argparse.Action):
    """Lists are given as `a b c` or `a,b,c`: use with nargs="+" (or "*"); `type` applies to each item."""

    def __call__(self, parser, namespace, values, option_string=None):
        items = [item for value in values for item in (value.split(",") if isinstance(value, str) else [value]) if item != ""]
        setattr(namespace, self.dest, items)


def key_value(text: str) -> tuple[str, object]:
    """`k=20` -> ("k", 20): the value is read as YAML, so numbers, true/false and [lists] have their types."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: the value is not valid YAML ({error})") from error
