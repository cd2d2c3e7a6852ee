"""Two sets that differ in pitch, an adapter for each, and a router: what the tests of routing share.

    recipe = make_recipe(tmp_path)            # data/{low,high}/{train,dev,test}, exp/adapters.json, base/
    train(recipe)                             # exp/router/pitch
"""
from pathlib import Path

import soundfile
from adapters import make_adapter
from tiny import RATE, tiny_whisper, tone

from speechmerge.cli import main
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.systems import register_adapter

SETS = {"low": (200, "it"), "high": (700, "de")}  # Hz, language
COUNTS = {"train": 10, "dev": 6, "test": 4}
STRATEGIES = ("{hard: {}, soft: {}, uniform: {}, oracle: {}, logit_ensemble: {k: 2}, arrow: {}, "
              "frames: {strategy: soft, level: frame, window: 0.4, smoothing: median, smoothing_seconds: 0.2}}")


def make_recipe(root: Path, adapters=True) -> Path:
    tiny_whisper(root / "base")
    for place, (name, (frequency, language)) in enumerate(SETS.items()):
        for split, count in COUNTS.items():
            write_tones(root / "data" / name / split, name, frequency, language, count, seed=len(split) + 10 * place)
        if adapters:
            folder = make_adapter(root / "base", root / "exp/asr" / name, seed=place + 1, size=0.3)
            register_adapter(root / "exp", name, folder, "asr")
    return root


def write_tones(folder: Path, prefix: str, frequency: float, language: str, count: int, seed: int) -> DataDir:
    (folder / "wav").mkdir(parents=True)
    rows = {}
    for i in range(count):
        id, seconds = f"{prefix}-{i:02d}", (0.9, 1.3, 1.3, 1.9)[i % 4]
        path = folder / "wav" / f"{id}.wav"
        soundfile.write(path, tone(frequency * (1 + 0.02 * i), seconds, seed=seed * 100 + i), RATE)
        rows[id] = Utterance(id, str(path), ["yes no", "no", "stop yes yes"][i % 3], id, language, seconds)
    data = DataDir(folder, rows)
    data.write()
    return data


def train(recipe: Path, *words, name: str = "pitch", strategies: str = STRATEGIES) -> int:
    places = ["--data", recipe / "data", "--exp-dir", recipe / "exp", "--output-dir", recipe / "exp/router" / name]
    options = ["--model", recipe / "base", "--tasks", "low", "high", "--crops", "1", "--crop-seconds", "0.5", "0.9", "--epochs", "15",
               "--device", "cpu", "--strategies", strategies]
    return main(list(map(str, ["train-router", *places, *options, *words])))


def hypotheses(recipe: Path, system: str, set_name: str) -> str:
    return (recipe / "exp/decode/test" / system / set_name / "hyp").read_text()
