"""SpeechMerge: one adapter per speech task, combined in weight space. Install with tools/setup.sh, which brings torch first."""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "speechmerge/__init__.py").read_text()).group(1)

setup(
    name="speechmerge",
    version=VERSION,
    description="Fine-tune one adapter per speech task, merge or route them, and measure what was kept",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["speechmerge", "speechmerge.*"]),
    package_data={"speechmerge": ["report/*.j2", "report/*.css", "report/*.js", "corpora/mini/*.yaml", "metrics/*.yaml"]},
    entry_points={"console_scripts": ["speechmerge = speechmerge.cli:main"]},
    # torch and torchaudio are pinned by tools/setup.sh, which also chooses the CPU or the CUDA build
    install_requires=[
        "torch>=2.11",
        "torchaudio>=2.11,<2.12",
        "transformers>=5.20,<6",
        "peft>=0.21,<0.23",
        "accelerate>=1.10",
        "safetensors>=0.6",
        "sentencepiece>=0.2",
        "kaldiio>=2.18",
        "jiwer>=4.0,<5",
        "rapidfuzz>=3",  # edit distances, which jiwer uses too
        "sacrebleu>=2.5",
        "pyyaml>=6",
        "configargparse>=1.7",
        "soundfile>=0.13",
        "numpy>=1.26",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "threadpoolctl>=3.1",
        "optuna>=4",  # searches of merge-sweep: GP, TPE
        "cmaes>=0.11",  # CMA-ES
        "matplotlib>=3.9",
        "jinja2>=3.1",
        "tqdm>=4.66",
        "tensorboard>=2.18",
        # s3prl 0.4.18 cannot be imported beside torchaudio >= 2.9; this distribution provides the same module `s3prl`
        "espnet-s3prl>=2026.5.14",
    ],
    extras_require={
        "mini": ["espeakng-loader>=0.2.4"],  # espeak-ng with all its voices, for the mini corpora
        "av": ["av>=14"],  # what libsndfile does not decode: G.722 (asterisk), m4a (Kathbath)
        "hf": ["datasets>=4"],  # corpora from Hugging Face, --source hf
        "indic": ["indic-nlp-library>=0.92"],  # the normaliser that Indic word error rates are published with
        "analysis": ["panphon>=0.22"],  # articulatory features of phones: probing, phonetic confusions
        "demo": ["gradio>=6"],  # speechmerge demo: a local page
        # playwright drives the machine's own Chromium: the report and the demo are looked at in a browser
        "test": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100", "playwright>=1.50"],
        "wandb": ["wandb>=0.19"],
        "quantization": ["bitsandbytes>=0.45"],  # --quantization 4bit, 8bit
    },
)
