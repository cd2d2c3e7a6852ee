"""speechmerge phones --data data/asr/train data/asr/dev [--lexicon librispeech-lexicon.txt]

Writes utt2phones beside the transcripts, for the task `phones`. SUPERB's phones are those of LibriSpeech's lexicon
(https://www.openslr.org/11); without a lexicon espeak-ng pronounces the transcripts in the language of utt2lang.
"""
from speechmerge.options import CommaList

HELP = "write the phones of transcripts (utt2phones), from a lexicon or by espeak-ng"


def add_arguments(parser):
    parser.add_argument("--data", required=True, nargs="+", action=CommaList, help="data directories with transcripts")
    parser.add_argument("--lexicon", help="`WORD  P H O N E S` lines; default: espeak-ng")


def run(args):
    from dataclasses import replace

    from speechmerge.data.directory import DataDir
    from speechmerge.tasks.phones import TABLE, pronounced, read_lexicon

    lexicon = read_lexicon(args.lexicon) if args.lexicon else None
    for path in args.data:
        data = DataDir.read(path)
        phones = pronounced(data, lexicon)
        data.utterances = {id: replace(utterance, labels={**utterance.labels, TABLE: phones[id]})
                           for id, utterance in data.utterances.items()}
        data.write(keep_unfiltered=True)
        print(f"{path}: {len(phones)} utterances, {len({phone for row in phones.values() for phone in row.split()})} phones")
