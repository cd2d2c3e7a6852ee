#!/usr/bin/env python3
"""Hypotheses of the task slu as the lines that SLURP's own evaluator reads.

    local/predictions.py exp/decode/test/slu/slu > predictions.jsonl
    python slurp/scripts/evaluation/evaluate.py -g slurp/dataset/slurp/test.jsonl -p predictions.jsonl

The folder is one of stage 6, with `hyp` and `decode.json`. What cannot be read as a frame becomes one without scenario,
action and entities, which the evaluator counts as wrong; left out, it would be ignored.
"""
import argparse
import json
import sys
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_mapping
from speechmerge.scoring import read_hypotheses
from speechmerge.tasks.frame import decode

NOTHING = {"scenario": "", "action": "", "entities": []}


def prediction(id: str, text: str, format: str) -> dict:
    """{"file", "scenario", "action", "entities"} of one hypothesis; ids are file names without .flac."""
    return {"file": f"{id}.flac", **(decode(text, format) or NOTHING)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="exp/decode/<split>/<system>/slu")
    folder = parser.parse_args().folder
    try:
        format = read_mapping(folder / "decode.json")["settings"].get("target_format", "json")
        for id, text in sorted(read_hypotheses(folder / "hyp").items()):
            print(json.dumps(prediction(id, text, format), ensure_ascii=False))
    except (SpeechMergeError, KeyError) as error:
        sys.exit(f"predictions: {error}; expected a folder of stage 6 for the task slu")


if __name__ == "__main__":
    main()
