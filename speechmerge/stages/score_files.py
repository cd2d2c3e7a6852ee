"""speechmerge score-files --task asr --ref FILE --hyp FILE: plain `id value` files, no data directory needed.

utils/score_asr.sh, score_cls.sh and score_sv.sh are this verb with its task filled in.
"""

HELP = "score plain files of references and hypotheses"


def add_arguments(parser):
    parser.add_argument("--task", required=True, help="asr, a label task (intent, ...) or speaker_ver")
    parser.add_argument("--ref", required=True, help="`id words` or `id label`; speaker_ver: a trials file")
    parser.add_argument("--hyp", help="`id words`, `id label` or `trial yes|no`; empty or missing lines are errors")
    parser.add_argument("--scores", help="speaker_ver: `trial number`, higher is more alike")
    parser.add_argument("--labels", help="the closed label set, one per line (default: the labels of --ref)")
    parser.add_argument("--utt2spk", help="intervals are then drawn by speaker, and asr is listed by speaker")
    parser.add_argument("--utt2lang", help="asr is then listed by language")
    parser.add_argument("--normaliser", choices=["none", "basic", "english"], default="basic", help="of transcripts")
    parser.add_argument("--repetitions", type=int, default=1000, help="bootstrap repetitions of the interval")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--output", help="also write everything to this JSON file")


def run(args):
    from speechmerge.errors import UsageError
    from speechmerge.files import write_json
    from speechmerge.scoring import Options, read_hypotheses, read_scores, score_reading

    if not args.hyp and not args.scores:
        raise UsageError("score-files: --hyp FILE (or, for speaker_ver, --scores FILE) is required")
    references = make_references(args)
    hyps = read_hypotheses(args.hyp) if args.hyp else {}
    scores = read_scores(args.scores) if args.scores else None
    found, _ = score_reading(references, hyps, scores, Options(args.normaliser, args.repetitions, args.seed))
    if args.output:
        write_json(args.output, found)
    print(table(found))


def make_references(args):
    from speechmerge.scoring import References, read_hypotheses
    from speechmerge.tasks import get_task

    task = get_task(args.task)
    if task.kind == "transcription":
        task.normaliser = args.normaliser
    targets = read_hypotheses(args.ref)
    if task.kind == "verification":
        targets = {id: trial_answer(args.ref, id, value) for id, value in targets.items()}
    labels = list(read_hypotheses(args.labels)) if args.labels else None
    speakers, languages = (read_hypotheses(path) if path else {} for path in (args.utt2spk, args.utt2lang))
    return References(task, targets, labels, speakers, languages)


def trial_answer(path, id: str, value: str) -> str:
    """The answer to `enrol test target|nontarget` (or to `target|nontarget` alone)."""
    from speechmerge.data.directory import TARGET_WORDS
    from speechmerge.errors import SpeechMergeError

    word = value.split()[-1] if value else ""
    if word not in TARGET_WORDS:
        raise SpeechMergeError(f"{path}: {id}: found {value!r}, expected `enrol test target|nontarget`")
    return "yes" if TARGET_WORDS[word] else "no"


def table(found: dict) -> str:
    """Rates in percent, counts as they are, then listings by language or speaker and the largest confusions."""
    rates = ("value", "wer", "cer", "accuracy", "uar", "macro_f1", "eer")
    lines = [f"{found['metric']:<18}{100 * found['value']:8.2f} %   95 % interval {100 * found['ci'][0]:.2f} .. "
             f"{100 * found['ci'][1]:.2f} (by {found['ci_unit']})"]
    for key, value in found.items():
        if key in rates and key not in ("value", found["metric"]):
            lines.append(f"{key:<18}{100 * value:8.2f} %")
        elif isinstance(value, (int, float)) and key not in rates:
            lines.append(f"{key:<18}{value:8.4f}" if isinstance(value, float) else f"{key:<18}{value:8d}")
    for key in ("per_language", "per_speaker"):
        lines += [f"  {key[4:]} {group:<20}{100 * value:8.2f} %" for group, value in found.get(key, {}).items()]
    return "\n".join(lines + confusions(found.get("confusion")))


def confusions(matrix: dict | None, most: int = 10) -> list[str]:
    if not matrix:
        return []
    wrong = [(count, ref, hyp) for ref, row in zip(matrix["labels"], matrix["counts"])
             for hyp, count in zip(matrix["columns"], row) if count and ref != hyp]
    return [f"  {count:5d} x {ref} -> {hyp}" for count, ref, hyp in sorted(wrong, key=lambda item: -item[0])[:most]]
