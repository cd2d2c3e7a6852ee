"""A recipe for a corpus of one's own, as egs/TEMPLATE/README.md says: copied, with a reader, stages 1 to 7."""
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from speechmerge.corpora.twins import Spoken, sentences, speak, voices, write_lines
from speechmerge.data.directory import DataDir
from speechmerge.files import read_json

ROOT = Path(__file__).parent.parent
COUNTS = {"train": 24, "dev": 4, "test": 6}


def write_corpus(root):
    """English sentences by three groups of voices, as metadata.tsv and wav/ of two sample rates."""
    import random

    rng, spoken, lines = random.Random(1), [], []
    for split, count in COUNTS.items():
        for number in range(count):
            text, voice = sentences("en", split, rng, 30), voices(split)[number % 3]
            rate = 16000 if number % 2 else 22050
            spoken.append(Spoken(f"wav/{split}{number:02d}.wav", text, "en", voice, rate=rate))
            lines.append(f"{split}{number:02d}.wav\t{split}\t{voice.name}\t{text}")
    speak(root, spoken)
    write_lines(root / "metadata.tsv", lines)


def reader_of_the_readme() -> str:
    block = re.search(r"```python\n(.*?)```", (ROOT / "egs/TEMPLATE/README.md").read_text(), re.DOTALL)[1]
    return textwrap.dedent("   " + block.removeprefix("   "))


def commands_of_the_readme() -> list[str]:
    block = re.search(r"```\n(.*?)```", (ROOT / "egs/TEMPLATE/README.md").read_text(), re.DOTALL)[1]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute on a free core
def test_a_copied_recipe_with_a_reader_of_ones_own(tmp_path):
    clone, corpus = tmp_path / "clone", tmp_path / "corpora/mine"
    for name in ("utils", "conf", "egs/librispeech", "egs/mini/base"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("exp", "data", "downloads"))
    write_corpus(corpus)
    copy, _, name_it, run = commands_of_the_readme()
    assert len(reader_of_the_readme().splitlines()) <= 32
    subprocess.run(copy, shell=True, cwd=clone, check=True)
    recipe = clone / "egs/mycorpus"
    (recipe / "local").mkdir()
    (recipe / "local/corpus.py").write_text(reader_of_the_readme())
    subprocess.run(name_it, shell=True, cwd=recipe, check=True)
    environment = os.environ | {"SPEECHMERGE_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    run = run.replace("/corpora/mine", str(corpus)) + " --model ../mini/base --train-args '--epochs 1' --ngpu 0 --nj 1"
    done = subprocess.run(run, shell=True, cwd=recipe, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"Stage (\d): \w+: \d+ s", done.stderr) == list("1234567")
    data = {split: DataDir.read(recipe / "data/asr" / split) for split in COUNTS}
    assert {split: len(directory.utterances) for split, directory in data.items()} == COUNTS
    for system in ("base", "asr"):
        hypotheses = (recipe / "exp/decode/test" / system / "asr/hyp").read_text().splitlines()
        assert [line.split()[0] for line in hypotheses] == list(data["test"].utterances)
    systems = read_json(recipe / "exp/scores_test.json")["systems"]
    scores = {system["name"]: system["scores"]["asr"]["generation"] for system in systems}
    assert scores.keys() == {"base", "asr"} and all(0 <= score < 3 for score in scores.values())
    assert (recipe / "exp/report/index.html").is_file()
