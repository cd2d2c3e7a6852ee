"""The times of a data directory: as its files say, else exact where the mini corpus was spoken, else forced."""
from pathlib import Path

from speechmerge.alignment.times import Times, files_of, read_times
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError

ENOUGH = 400  # utterances that phone models are trained on
SOURCES = ("auto", "exact", "forced")
DEFAULT_LANGUAGE = "en"


def times_of_data(data: DataDir, only=None) -> tuple[dict[str, Times], str]:
    """({utterance: Times}, where they come from: "files", "exact" or "forced"), of all utterances or those of `only`.

    Utterances without times are left out. SpeechMergeError where files are there, but none of these utterances is in
    them. What is forced is trained on ENOUGH utterances, also those that are not wanted: phone models need speech.
    """
    wanted = set(data.utterances) if only is None else set(only)
    given = {id: times for id, times in read_times(Path(data.path)).items() if id in wanted}
    if given:
        return given, "files"
    if files_of(Path(data.path)):
        raise SpeechMergeError(f"{files_of(Path(data.path))[0]}: has no utterance of {data.path}; make it again with "
                               f"`speechmerge align --data {data.path}`")
    others = [id for id in data.utterances if id not in wanted][: max(0, ENOUGH - len(wanted))]
    chosen = {id: data.utterances[id] for id in sorted([*wanted, *others])}
    times, source = make_times([DataDir(data.path, chosen)])[0]
    return {id: own for id, own in times.items() if id in wanted}, source


def make_times(folders: list[DataDir], source: str = "auto") -> list[tuple[dict[str, Times], str]]:
    """For each folder ({utterance: Times}, "exact" or "forced"); what is forced is aligned together."""
    from speechmerge.alignment.aligner import align
    from speechmerge.alignment.espeak import Announcer
    from speechmerge.alignment.exact import exact_times

    announcer = Announcer()
    exact = [{} if source == "forced" else exact_times(data, announcer) for data in folders]
    if source == "exact" and (empty := next((data for data, own in zip(folders, exact) if not own), None)):
        raise SpeechMergeError(f"{empty.path}: not spoken by the mini corpus, so that no times are known exactly; give "
                               "--source forced")
    waiting = {(place, id): utterance for place, (data, own) in enumerate(zip(folders, exact)) if not own
               for id, utterance in data.utterances.items()}
    forced = align({key: heard(folders[key[0]], utterance) for key, utterance in waiting.items()}, announcer)
    return [(own, "exact") if own else ({id: times for (at, id), times in forced.items() if at == place}, "forced")
            for place, own in enumerate(exact)]


def heard(data: DataDir, utterance) -> tuple:
    """(samples, transcript, language) as align() takes them."""
    from speechmerge.data.audio import RATE, read_audio

    if not utterance.text:
        raise SpeechMergeError(f"{data.path / 'text'}: no transcript for utterance {utterance.id}; its phones are made "
                               "from it")
    samples = read_audio(utterance.own_file(data.path), RATE, utterance=utterance.id)
    return samples, utterance.text, utterance.language or DEFAULT_LANGUAGE
