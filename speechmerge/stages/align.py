"""speechmerge align --data data/asr/dev data/asr/train [--textgrid true] [--check true]

Writes phones.ctm and words.ctm beside the transcripts: when each phone (IPA of espeak-ng) and each word is said. Data
that the mini corpus spoke gets the synthesizer's own times; other data is aligned by phone models that are trained on
all of the folders together (the more speech, the better). `--check true` aligns also what is known exactly and prints
by how much the beginnings of phones differ.
"""
from speechmerge.alignment.data import SOURCES
from speechmerge.options import CommaList, boolean

HELP = "write when phones and words are said (phones.ctm, words.ctm): exact for the mini corpus, else forced alignment"


def add_arguments(parser):
    parser.add_argument("--data", required=True, nargs="+", action=CommaList, help="data directories with transcripts")
    parser.add_argument("--source", choices=SOURCES, default="auto",
                        help="auto: exact where the mini corpus was spoken, else forced")
    parser.add_argument("--textgrid", type=boolean, default=False,
                        help="write textgrid/UTTERANCE.TextGrid, too, for a look in Praat")
    parser.add_argument("--check", type=boolean, default=False,
                        help="where the times are known exactly: also the error of forced alignment, in ms")


def run(args):
    from pathlib import Path

    from speechmerge.alignment.data import make_times
    from speechmerge.alignment.times import write_times
    from speechmerge.data.directory import DataDir

    folders = [DataDir.read(path) for path in args.data]
    for data, (times, source) in zip(folders, make_times(folders, args.source)):
        write_times(Path(data.path), times)
        if args.textgrid:
            write_textgrids(data, times)
        phones = sum(len(own.phones) for own in times.values())
        missing = len(data.utterances) - len(times)
        print(f"{data.path}: {source} times of {phones} phones in {len(times)} utterances"
              + (f"; {missing} without" if missing else ""))
    if args.check:
        print("\n".join(check(folders)))


def write_textgrids(data, times):
    from speechmerge.alignment.times import FOLDER, write_textgrid
    from speechmerge.data.audio import audio_info

    for id, own in times.items():
        utterance = data.utterances[id]
        seconds = utterance.duration or audio_info(utterance.own_file(data.path))[0]
        write_textgrid(data.path / FOLDER / f"{id}.TextGrid", own, max(seconds, own.phones[-1].end))


def check(folders) -> list[str]:
    """One line for each folder whose times are known."""
    import numpy as np

    from speechmerge.alignment.aligner import boundary_errors
    from speechmerge.alignment.data import make_times

    lines = []
    for data, (truth, source), (found, _) in zip(folders, make_times(folders), make_times(folders, "forced")):
        if source == "exact":
            errors = [1000 * error for id in truth if id in found for error in boundary_errors(found[id], truth[id])]
            lines.append(f"{data.path}: forced alignment differs by {np.mean(errors):.1f} ms in the mean, "
                         f"{np.median(errors):.1f} in the median, of {len(errors)} phones")
    return lines or ["no folder whose times are known exactly; --check compares nothing"]
