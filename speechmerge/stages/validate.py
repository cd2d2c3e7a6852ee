"""speechmerge validate --data data/asr/train [DIR ...] [--fix true]: each finding is one line, with what mends it."""
from speechmerge.options import CommaList, boolean

HELP = "check data directories, tables and audio, or repair them"


def add_arguments(parser):
    parser.add_argument("--data", nargs="+", action=CommaList, required=True, help="data directories")
    parser.add_argument("--fix", type=boolean, default=False, help="repair what can be; old tables go to .backup")
    parser.add_argument("--audio", type=boolean, default=True, help="also decode the audio")
    parser.add_argument("--allow-pipes", type=boolean, default=False,
                        help="commands in wav.scp are no findings; they are not run, and their audio is not checked")
    parser.add_argument("--nj", type=int, default=2, help="audio files decoded at a time")
    parser.add_argument("--max-findings", type=int, default=50, help="print at most so many per directory")


def run(args):
    from speechmerge.data.validate import fix, validate

    status = 0
    for path in args.data:
        if args.fix:
            print("\n".join(fix(path, args.audio, args.nj, args.allow_pipes) or [f"{path}: nothing to repair"]))
        findings = validate(path, args.audio, args.nj, allow_pipes=args.allow_pipes)
        for finding in findings[: args.max_findings]:
            print(finding)
        if len(findings) > args.max_findings:
            print(f"{path}: {len(findings) - args.max_findings} more findings (--max-findings)")
        print(f"{path}: " + (f"{len(findings)} findings" if findings else "valid"))
        status = status or int(bool(findings))
    return status
