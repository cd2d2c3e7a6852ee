"""The miniature of all sources, each in its published layout, in real Hindi, Punjabi, Telugu and Italian.

Test speakers and test sentences are in no train set; those of Kathbath's test_known speak in train, as published.
"""
import json
import random
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

from speechmerge.corpora import common_voice_asr, mls
from speechmerge.corpora.ai4bharat import indicvoices, kathbath, shrutilipi
from speechmerge.corpora.ai4bharat.news import sentence
from speechmerge.corpora.ai4bharat.sources import sources_of
from speechmerge.corpora.twins import Spoken, crowd, gender, speak, write_lines

INDIAN = ("hi", "pa", "te")
KATHBATH = {"train": 64, "dev": 12, "test": 24, "test_known": 8, "test_noisy": 24, "test_known_noisy": 8}
COMMON_VOICE = {"hi": (64, 12, 24), "pa": (64, 12, 24), "te": (64, 12, 24), "it": (110, 16, 24)}  # train, dev, test
MLS = {"train": 110, "dev": 16, "test": 24}
BULLETINS, SENTENCES = 5, 8  # of Shrutilipi, and sentences in each
# IndicVoices: recordings of a speaker alone, and conversations of two tracks; stretches of the speaker in each of them
ALONE, TALKS, STRETCHES = {"train": 12, "dev": 2}, {"train": 1, "dev": 0}, {"train": 4, "dev": 4}
# By the one who leads a recording
ASKED = {"hi": "आज आप कहाँ हैं", "pa": "ਅੱਜ ਤੁਸੀਂ ਕਿੱਥੇ ਹੋ", "te": "ఈరోజు మీరు ఎక్కడ ఉన్నారు"}
MIXED = {"hi": "मेरा phone ठीक है", "pa": "ਮੇਰਾ phone ਠੀਕ ਹੈ", "te": "నా phone బాగుంది"}  # a word in Latin letters


def expected(options) -> dict[str, int]:
    """Utterances of each split with these options; {} where they cut the sets in another way."""
    if options.splits != "published" or options.common_voice_train != "train" or options.latin == "skip":
        return {}
    counts = Counter()
    for language in options.languages:
        for source in sources_of(options, language):
            own = source_counts(source, language, options)
            counts.update(own)
            if options.test_by_source and own.get("test"):
                counts[f"test_{source}"] += own["test"]
    return dict(counts)


def source_counts(source: str, language: str, options) -> dict[str, int]:
    if source == "kathbath":
        return {split: KATHBATH[split] for split in options.kathbath_sets}
    if source == "indicvoices":
        return {split: (ALONE[split] + 2 * TALKS[split]) * STRETCHES[split] for split in ALONE}
    if source == "shrutilipi":
        return {"train": BULLETINS * SENTENCES}
    if source == "mls":
        return {split: mls.twin_sizes(MLS)[options.mls_subset if split == "train" else split] for split in mls.SPLITS}
    return dict(zip(common_voice_asr.TABLES, COMMON_VOICE[language]))


def write(root: Path, seed: int, nj: int):
    """Tables first, then the audio, then the transcripts that need its times."""
    spoken = mls.twin(root, "mls", seed, sentence, MLS)
    recordings: list[Spoken] = []
    for language, sizes in COMMON_VOICE.items():
        spoken += common_voice_asr.twin(root, "common_voice", language, seed, sentence, sizes)
    for language in INDIAN:
        rng = random.Random(f"ai4bharat:{language}:{seed}")
        spoken += write_kathbath(root, language, rng, seed) + write_shrutilipi(root, language, rng, seed)
        recordings += indicvoices_recordings(language, rng, seed)
    # through a telephone, which the mini base never was: what adapters can learn from a few clips
    times = speak(root, [replace(item, channel="telephone") for item in spoken + recordings], nj)
    for recording in recordings:
        write_transcript(root, recording, times[recording.path])


def write_kathbath(root: Path, language: str, rng, seed: int) -> list[Spoken]:
    spoken, numbers = [], {}
    for place, voice in enumerate([*crowd("train"), *crowd("dev"), *crowd("test")]):
        numbers[voice.name] = 100 + 7 * place
    for split, count in KATHBATH.items():
        name, tops = kathbath.SETS[split]
        folder, lines = Path("kathbath") / tops[0] / kathbath.LANGUAGES[language] / name, []
        group = crowd("train" if name == "test_known" else split.split("_")[0])[::2]
        for place in range(count):
            voice, text = group[place % len(group)], sentence(language, split.split("_")[0], rng)
            clip = f"{rng.randrange(10 ** 14, 10 ** 15)}-{numbers[voice.name]}-{gender(voice).lower()}.m4a"
            spoken.append(Spoken(str(folder / "audio" / clip), text, language, voice, seed=seed))
            lines.append(f"{clip}\t{text.replace(' ', chr(0xA0), 1) if place % 5 == 0 else text}")
        write_lines(root / folder / "transcription_n2w.txt", lines)
    noisy = root / "kathbath" / "kb_data_noisy_m4a" / kathbath.LANGUAGES[language] / "valid"
    write_lines(noisy / "transcription_n2w.txt", ["no-such-clip.m4a\tno such text"])  # a folder that is no set
    return spoken


def write_shrutilipi(root: Path, language: str, rng, seed: int) -> list[Spoken]:
    spoken, clips, texts = [], [], []
    folder = Path("shrutilipi") / "data" / shrutilipi.LANGUAGES[language]
    for bulletin, voice in zip(range(BULLETINS), crowd("train")[1::5]):
        date = f"{language.upper()}-2021-0{bulletin + 1}-14-0700"
        for number in range(SENTENCES):
            text, clip = sentence(language, "train", rng), f"{date}/sent_{number}.wav"
            spoken.append(Spoken(str(folder / clip), text, language, voice, seed=seed))
            clips.append(f"{clip}\t{16000 + 320 * number}")
            texts.append(text)
    write_lines(root / folder / "train.tsv", [f"/nlsasfs/home/newsonair/{folder.name}", *clips])
    write_lines(root / folder / "train.wrd", texts)
    write_lines(root / folder / "train.ltr", [" ".join(text.replace(" ", "|")) + " |" for text in texts])
    return spoken


def indicvoices_recordings(language: str, rng, seed: int) -> list[Spoken]:
    """Recordings of several sentences; `labels` holds what the transcript says of them."""
    found = []
    for split, name in indicvoices.SETS.items():
        folder = Path("indicvoices") / indicvoices.LANGUAGES[language] / "v1" / name
        group = iter(crowd(split)[::3])
        for place in range(ALONE[split]):
            texts = [sentence(language, split, rng) for _ in range(STRETCHES[split])]
            if split == "train" and place == 0:
                texts[1] = MIXED[language]
            path = folder / f"{rng.randrange(10 ** 14, 10 ** 15)}.wav"
            found.append(recording(path, texts, [0] * len(texts), language, next(group), seed))
        for _ in range(TALKS[split]):
            talk = uuid.UUID(int=rng.getrandbits(128), version=4)
            for track in range(2):
                texts = [ASKED[language], *(sentence(language, split, rng) for _ in range(STRETCHES[split]))]
                found.append(recording(folder / f"{talk}_{track}.wav", texts, [1] + [0] * STRETCHES[split], language,
                                       next(group), seed))
    return found


def recording(path: Path, texts: list[str], who: list[int], language: str, voice, seed: int) -> Spoken:
    labels = {"who": who, "speaker_id": f"S{sum(voice.name.encode()):07d}",
              "gender": {"F": "Female", "M": "Male"}[gender(voice)]}
    return Spoken(str(path), tuple(texts), language, voice, seed=seed, labels=labels)


def write_transcript(root: Path, item: Spoken, times):
    """`verbatim` with a tag, as people laugh; `normalized` without."""
    def stretches(text_of):
        return [{"start": round(start, 3), "end": round(end, 3), "text": text_of(place, text), "speaker_id": who}
                for place, (text, who, (start, end)) in enumerate(zip(item.texts, item.labels["who"], times))]

    told = {"verbatim": stretches(lambda place, text: f"{text} [laugh]" if place == 1 else text),
            "normalized": stretches(lambda place, text: text), "speaker_id": item.labels["speaker_id"],
            "gender": item.labels["gender"], "scenario": "Conversation" if "_" in Path(item.path).stem else "Extempore"}
    path = root / Path(item.path).with_suffix(".json")
    write_lines(path, json.dumps(told, ensure_ascii=False, indent=2).split("\n"))
