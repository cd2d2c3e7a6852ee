"""A step that was done with the same options and inputs is not done again.

The key of a step is a hash of its resolved options and of the content of its inputs. It is written as `done.json` into
the step's output folder after everything else, together with the outputs' sizes, so that a killed step, a changed
option, a changed input or a deleted output all lead to the step being done again.
"""
from pathlib import Path

from speechmerge.files import fingerprint, read_json, write_json
from speechmerge.hashes import file_hash

NAME = "done.json"


def content(path) -> str:
    """Hash of a file, or of all files below a folder (hidden files and done.json left out)."""
    path = Path(path)
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        return "missing"
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != NAME and not file.name.startswith("."))
    return fingerprint([(str(file.relative_to(path)), file_hash(file)) for file in files])


def step_key(options: dict, inputs=()) -> str:
    """Key of a step. `inputs`: paths whose content matters; `options`: everything else that does."""
    return fingerprint({"options": options, "inputs": [content(path) for path in inputs]})


def is_done(output_dir, key: str) -> bool:
    output_dir = Path(output_dir)
    if not (output_dir / NAME).is_file():
        return False
    record = read_json(output_dir / NAME)
    return record["key"] == key and all(
        (output_dir / name).is_file() and (output_dir / name).stat().st_size == size for name, size in record["outputs"].items()
    )


def mark_done(output_dir, key: str, outputs):
    """`outputs`: names of files in `output_dir` that must still be there, with the same size, for the step to count as done."""
    output_dir = Path(output_dir)
    write_json(output_dir / NAME, {"key": key, "outputs": {name: (output_dir / name).stat().st_size for name in sorted(outputs)}})
