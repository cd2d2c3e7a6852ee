"""IEMOCAP in miniature: the release's folders and files, with what trips readers in them; prosody makes the emotion.

Ten voices, a woman and a man in each session. No sentence is said twice, so that none of a test session is in training.
"""
import random
from pathlib import Path

from speechmerge.corpora.mini.plans import label_set
from speechmerge.corpora.twins import Delivery, Speaker, Spoken, gender, sentences, speak, voices, write_lines

TOP = "IEMOCAP_full_release"
CODES = {"neu": 15, "hap": 9, "exc": 6, "sad": 15, "ang": 15, "fru": 3, "sur": 1, "xxx": 2}  # turns of each session
STYLES = {"neu": "neutral", "hap": "happy", "sad": "sad", "ang": "angry", "exc": "excited"}  # others: neutral
DIALOGS = ("F_impro01", "F_script01_2", "M_impro03", "M_script02_1")
TURN_SECONDS = 4.0  # between the beginnings of two turns, as the files say
HEADER = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "  # what a Mac leaves beside a file as `._<name>`


def write(root: Path, seed: int, nj: int):
    rng, said = random.Random(f"iemocap:{seed}"), set()
    women = [voice for group in ("train", "dev", "test") for voice in voices(group) if gender(voice) == "F"]
    men = [voice for group in ("train", "dev", "test") for voice in voices(group) if gender(voice) == "M"]
    spoken = []
    for session in range(1, 6):
        pair = (women[session], men[session])
        spoken += write_session(root / TOP / f"Session{session}", session, pair, rng, said, seed)
    speak(root, spoken, nj)


def write_session(folder: Path, session: int, pair, rng, said: set, seed: int) -> list[Spoken]:
    """The texts of a session; returns what is to be spoken."""
    codes = [code for code, count in CODES.items() for _ in range(count)]
    rng.shuffle(codes)
    spoken = []
    for place, name in enumerate(DIALOGS):
        dialog, turns = f"Ses0{session}{name}", []
        for number, code in enumerate(codes[place :: len(DIALOGS)]):
            speaker = pair[number % 2]
            id = f"{dialog}_{gender(speaker)}{number // 2:03d}"
            turns.append((id, code, new_sentence(rng, said)))
            path = Path(TOP, folder.name, "sentences/wav", dialog, f"{id}.wav")
            spoken.append(Spoken(str(path), turns[-1][2], "en", speaker, delivery(speaker, code, rng), seed=seed))
        write_dialog(folder / "dialog", dialog, turns)
    return spoken


def new_sentence(rng, said: set) -> str:
    """One of the sentences that the mini base has not been trained on, and that nobody has said yet."""
    while (text := sentences("en", "test", rng, 34)) in said:
        pass
    said.add(text)
    return text


def delivery(speaker: Speaker, code: str, rng) -> Delivery:
    """Pace, pitch and pitch range of an emotion, around the speaker's own."""
    styles = {**label_set("emotion", "base"), **label_set("emotion")}
    style = styles[STYLES.get(code, "neutral")]
    return Delivery(round(speaker.rate * style["rate"]) + rng.randint(-6, 6),
                    min(99, max(0, speaker.pitch + style["pitch"] + rng.randint(-3, 3))),
                    min(99, max(0, style["range"] + rng.randint(-5, 5))))


def write_dialog(folder: Path, dialog: str, turns):
    """Evaluations, transcripts, and the files beside them that are not to be read."""
    blocks, transcripts = list(HEADER), []
    for number, (id, code, text) in enumerate(turns):
        start, end = number * TURN_SECONDS + 0.5, (number + 0.75) * TURN_SECONDS
        blocks += [f"[{start:.4f} - {end:.4f}]\t{id}\t{code}\t[2.5000, 3.0000, 2.5000]", "C-E2:\tNeutral;\t()",
                   "C-E3:\tNeutral; Other;\t(d\u00e9\u00e7u)", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
        transcripts.append(f"{id} [{start:08.4f}-{end:08.4f}]: {text.capitalize()}.")
    transcripts.insert(1, "M: [BREATHING]")
    write_lines(folder / "EmoEvaluation" / f"{dialog}.txt", blocks, "latin-1")
    write_lines(folder / "transcriptions" / f"{dialog}.txt", transcripts, "latin-1")
    for kind, suffix in (("Categorical", "e2_cat"), ("Attribute", "e3_atr"), ("Self-evaluation", "f1_cat")):
        opinions = [f"{id} :{'Anger' if suffix.endswith('cat') else 'act 3; val  2; dom  3'}; ()" for id, _, _ in turns]
        write_lines(folder / "EmoEvaluation" / kind / f"{dialog}_{suffix}.txt", opinions)
    (folder / "EmoEvaluation" / f"._{dialog}.txt").write_bytes(APPLE)
    (folder / "transcriptions" / f"._{dialog}.txt").write_bytes(APPLE)
