"""What was written in a config or on the command line, checked: every error begins with the exact key path.

    section("search.space.lambda", SPACE["float"], {"min": "a", "max": 1})
    UsageError: search.space.lambda.min: found 'a', expected number
"""
from speechmerge.errors import UsageError
from speechmerge.merge.parameters import REQUIRED, Parameter
from speechmerge.registry import nearest


def mapping(path: str, value) -> dict:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: found {value!r}, expected a mapping {{key: value, ...}}")
    return value


def names(path: str, value) -> list[str]:
    """A list of at least one name."""
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"{path}: found {value!r}, expected a list of at least one name")
    for place, item in enumerate(value):
        if not isinstance(item, str) or not item:
            raise UsageError(f"{path}[{place}]: found {item!r}, expected a name")
    return list(value)


def known_keys(path: str, given: dict, known):
    """Raises UsageError for a key that is not one of `known`."""
    for key in given:
        if key not in known:
            raise UsageError(f"{path}.{key}: unknown key; {nearest(str(key), known)}")


def leaf(path: str, parameter: Parameter, value):
    """`value` in the parameter's type, within its bounds."""
    try:
        return parameter.read(value)
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).removeprefix(f'parameter {parameter.name}: ')}") from error


def section(path: str, declared, given, complete: bool = True) -> dict:
    """A mapping of declared parameters with their defaults; `complete` false: only what is given."""
    known = {parameter.name: parameter for parameter in declared}
    known_keys(path, mapping(path, given), known)
    values = {key: leaf(f"{path}.{key}", known[key], value) for key, value in given.items()}
    if not complete:
        return values
    for name, parameter in known.items():
        if name not in values and parameter.default is REQUIRED:
            raise UsageError(f"{path}.{name}: missing; {parameter}")
    return {name: values.get(name, parameter.default) for name, parameter in known.items()}
