"""speechmerge score-files --task asr --ref FILE --hyp FILE: plain files, no data directory needed.

utils/score_*.sh are this verb with its task filled in. Several pairs of files of a label task are folds: each is
scored, then their mean and all of them pooled.
"""
from speechmerge.options import boolean
from speechmerge.report.wording import POINTS
from speechmerge.stages.score import NORMALISERS

HELP = "score plain files of references and hypotheses"
RATES = ("wer", "cer", "accuracy", "uar", "macro_f1", "eer", "scenario_f1", "action_f1", "intent_f1", "entity_f1",
         "word_f1", "char_f1", "slu_f1", "exact_match", "slot_type_f1", "slot_value_cer", "f1")


def add_arguments(parser):
    parser.add_argument("--task", required=True, help="asr, slu, st, speech_qa, speaker_ver or a label task (kws)")
    parser.add_argument("--ref", required=True, nargs="+", help="`id words` or `id label`; slu: SLURP's jsonl; "
                        "speech_qa: a SQuAD json; speaker_ver: a trials file. Several for a label task: folds")
    parser.add_argument("--hyp", nargs="+", help="`id words`, `id label` or `trial yes|no`, empty or missing lines are "
                        "errors; slu: jsonl with file, scenario, action, entities; speech_qa: json {id: answer}")
    parser.add_argument("--scores", help="speaker_ver: `trial number`, higher is more alike")
    parser.add_argument("--labels", help="the closed label set, one per line (default: the labels of --ref)")
    parser.add_argument("--utt2spk", help="intervals are then drawn by speaker, and asr is listed by speaker")
    parser.add_argument("--utt2lang", help="asr is then listed by language")
    parser.add_argument("--lang", help="asr: the language of all utterances, for the indic normaliser")
    parser.add_argument("--target-lang", help="st: the language translated to, which decides the tokenizer of BLEU")
    parser.add_argument("--bleu-tokenizer", help="st: instead, one of sacreBLEU's: 13a, zh, ja-mecab, char, ...")
    parser.add_argument("--load-gold", nargs="?", const=True, type=boolean, default=False,
                        help="slu: predictions of gold transcripts, by slurp_id")
    parser.add_argument("--skip-missing", nargs="?", const=True, type=boolean, default=False,
                        help="slu: leave out utterances without a prediction, as the published evaluator does")
    parser.add_argument("--normaliser", choices=NORMALISERS, default="basic", help="of transcripts")
    parser.add_argument("--repetitions", type=int, default=1000, help="bootstrap repetitions of the interval")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--output", help="also write everything to this JSON file")


def run(args):
    from speechmerge.errors import UsageError
    from speechmerge.files import write_json

    if not args.hyp and not args.scores:
        raise UsageError("score-files: --hyp FILE (or, for speaker_ver, --scores FILE) is required")
    if args.hyp and len(args.hyp) != len(args.ref):
        raise UsageError(f"score-files: {len(args.ref)} references but {len(args.hyp)} hypotheses; they go by pairs")
    found = score_folds(args) if len(args.ref) > 1 else score_pair(args, args.ref[0], args.hyp and args.hyp[0])
    if args.output:
        write_json(args.output, found)
    print(folds_table(args, found) if "folds" in found else table(found))


def score_pair(args, ref, hyp) -> dict:
    from speechmerge.plain_files import read_pair, trial_scores

    refs, hyps = read_pair(args.task, ref, hyp, args.load_gold)
    return score(args, refs, hyps, trial_scores(args.scores) if args.scores else None)


def score(args, refs, hyps, scores=None, speakers=None) -> dict:
    from speechmerge.scoring import Options, References, other_intervals, read_hypotheses, score_reading

    labels = list(read_hypotheses(args.labels)) if args.labels else None
    languages = read_hypotheses(args.utt2lang) if args.utt2lang else {id: args.lang for id in refs if args.lang}
    references = References(make_task(args), refs, labels, speakers or speakers_of(args), languages)
    options = Options(args.normaliser, args.repetitions, args.seed)
    found, _ = score_reading(references, hyps, scores, options)
    return {**found, "intervals": other_intervals(references, hyps, scores, options)}


def make_task(args):
    from speechmerge.tasks import get_task

    task = get_task(args.task)
    for name, value in (("normaliser", args.normaliser), ("skip_missing", args.skip_missing),
                        ("target_language", args.target_lang), ("bleu_tokenizer", args.bleu_tokenizer)):
        if hasattr(task, name):
            setattr(task, name, value)
    return task


def score_folds(args) -> dict:
    """{"folds": [...], "mean": of the deciding metric and the other rates, "pooled": all folds as one set}."""
    from speechmerge.errors import UsageError
    from speechmerge.plain_files import read_pair

    if make_task(args).kind != "classification":
        raise UsageError(f"score-files: several files are folds of a label task; {args.task} takes one --ref")
    pairs = [read_pair(args.task, ref, hyp) for ref, hyp in zip(args.ref, args.hyp)]
    refs, hyps = ({f"{fold}/{id}": text for fold, pair in enumerate(pairs, 1) for id, text in pair[side].items()}
                  for side in (0, 1))
    folds = [score(args, *pair) for pair in pairs]
    pooled = score(args, refs, hyps, speakers={f"{fold}/{id}": name for fold in range(1, len(pairs) + 1)
                                               for id, name in speakers_of(args).items()})
    mean = {key: sum(fold[key] for fold in folds) / len(folds) for key in ("accuracy", "uar", "macro_f1")}
    return {"folds": folds, "mean": mean, "pooled": pooled}


def speakers_of(args) -> dict[str, str]:
    from speechmerge.scoring import read_hypotheses

    return read_hypotheses(args.utt2spk) if args.utt2spk else {}


def folds_table(args, found: dict) -> str:
    from speechmerge.stages.score import aligned

    rates = list(found["mean"])
    named = [*zip(args.ref, found["folds"]), ("mean of folds", found["mean"]), ("pooled", found["pooled"])]
    rows = [["fold", "n", *rates]]
    rows += [[name, str(some.get("n", "")), *(f"{100 * some[key]:.2f} %" for key in rates)] for name, some in named]
    return aligned(rows) + "\n\npooled:\n" + table(found["pooled"])


def table(found: dict) -> str:
    """Rates in percent, BLEU and chrF in points, counts as they are, then listings and the largest confusions."""
    unit = "" if found["metric"] in POINTS else " %"
    lines = [f"{found['metric']:<18}{100 * found['value']:8.2f}{unit}   95 % interval {100 * found['ci'][0]:.2f} .. "
             f"{100 * found['ci'][1]:.2f} (by {found['ci_unit']})"]
    others = {key: value for key, value in found.items() if key not in ("value", found["metric"])}
    lines += [line for key, value in others.items() for line in row(key, value, found.get("intervals", {}).get(key))]
    lines += [f"  macro {key:<16}{100 * value:8.2f} %" for key, value in found.get("macro", {}).items()]
    for key in ("per_language", "per_speaker"):
        lines += [f"  {key[4:]} {group:<20}{100 * value:8.2f} %" for group, value in found.get(key, {}).items()]
    return "\n".join(lines + confusions(found.get("confusion")))


def row(key: str, value, interval=None) -> list[str]:
    if isinstance(value, str) and key in ("signature", "chrf_signature", "tokenizer", "normaliser"):
        return [f"{key:<18}{value}"]
    if not isinstance(value, (int, float)):
        return []
    if key in (*RATES, *POINTS):
        ends = f"   {100 * interval[0]:.2f} .. {100 * interval[1]:.2f}" if interval else ""
        return [f"{key:<18}{100 * value:8.2f}" + (" %" if key in RATES else "") + ends]
    ends = f"   {interval[0]:.4f} .. {interval[1]:.4f}" if interval else ""
    return [(f"{key:<18}{value:8.4f}" if isinstance(value, float) else f"{key:<18}{value:8d}") + ends]


def confusions(matrix: dict | None, most: int = 10) -> list[str]:
    if not matrix:
        return []
    wrong = [(count, ref, hyp) for ref, row in zip(matrix["labels"], matrix["counts"])
             for hyp, count in zip(matrix["columns"], row) if count and ref != hyp]
    return [f"  {count:5d} x {ref} -> {hyp}" for count, ref, hyp in sorted(wrong, key=lambda item: -item[0])[:most]]
