"""speechmerge prepare --corpus mini [--corpus-dir DIR] [--output-dir data] [--tasks asr kws] [--param key=value ...]"""
from pathlib import Path

from speechmerge.options import CommaList, boolean, key_value

HELP = "make data directories from a corpus as published, or from its spoken miniature"


def add_arguments(parser):
    parser.add_argument("--corpus", required=True, help="name, see `speechmerge list corpora`; or a Python file of yours")
    parser.add_argument("--corpus-dir", help="where the corpus lies or is fetched to")
    parser.add_argument("--output-dir", default="data", help="data directories are written to DIR/<task>/<split>")
    parser.add_argument("--tasks", nargs="+", action=CommaList, help="tasks to make data for (default: the corpus's first)")
    parser.add_argument("--languages", nargs="+", action=CommaList, help="of a corpus whose sets are languages")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--nj", type=int, default=2, help="parallel jobs, where the corpus knows how")
    parser.add_argument("--param", type=key_value, nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="options of the corpus, see its module")
    parser.add_argument("--force", type=boolean, default=False, help="do it again although it is done")


def run(args):
    from speechmerge.corpora import find_corpus
    from speechmerge.files import write_json

    corpus = find_corpus(args.corpus)()
    options = corpus_options(corpus, args)
    record = Path(args.output_dir) / f"prepared_{Path(args.corpus).stem}.json"
    if not args.force and is_prepared(record, prepare_key(corpus, args, options)):
        print(f"{args.output_dir}: already prepared from {args.corpus}")
        return
    record.unlink(missing_ok=True)
    directories = sorted(str(path) for path in corpus.prepare(output_dir=args.output_dir, **options) or [])
    key = prepare_key(corpus, args, options)  # now: the corpus may have been fetched
    write_json(record, {"key": key, "directories": directories})
    print(f"{args.output_dir}: {len(directories)} data directories from {args.corpus}")


def corpus_options(corpus, args) -> dict:
    """The options that this corpus knows. Raises UsageError for an unknown --param or where --corpus-dir is needed."""
    import inspect

    from speechmerge.errors import UsageError
    from speechmerge.registry import nearest

    accepted = inspect.signature(corpus.prepare).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    options = dict(args.param)
    for key in options:
        if key not in accepted and not takes_all:
            known = set(accepted) - {"output_dir"}
            raise UsageError(f"prepare: {args.corpus} has no --param {key!r}; {nearest(key, known)}")
    for key in ("tasks", "languages"):
        if getattr(args, key) and (key in accepted or takes_all):
            options[key] = getattr(args, key)
    if args.corpus_dir is not None:
        options["corpus_dir"] = args.corpus_dir
    elif "corpus_dir" in accepted and accepted["corpus_dir"].default is inspect.Parameter.empty:
        raise UsageError(f"prepare: {args.corpus} needs --corpus-dir, the folder of the corpus")
    return {**options, **{key: getattr(args, key) for key in ("seed", "nj") if key in accepted}}


def prepare_key(corpus, args, options: dict) -> str:
    """Options, code version, and names and sizes of the corpus's files: a download that was completed is seen.

    Of a corpus in a file of one's own also that file.
    """
    from speechmerge import __version__
    from speechmerge.files import fingerprint

    root, folders = Path(args.corpus_dir or "."), [Path(args.corpus_dir)] if args.corpus_dir else []
    if hasattr(corpus, "folders") and options.get("source", "files") == "files":
        root = corpus.root(args.corpus_dir, options.get("mini", False))
        folders = corpus.folders(root)
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files = sorted((str(path.relative_to(root)), path.stat().st_size) for path in found)
    code = Path(args.corpus).read_text(encoding="utf-8") if args.corpus.endswith(".py") else ""
    return fingerprint({"corpus": args.corpus, "code": code, "version": __version__, "files": files,
                        **{key: value for key, value in options.items() if key != "nj"}})


def is_prepared(record: Path, key: str) -> bool:
    """Done with the same options and corpus, and every data directory is there (`format` may have changed them)."""
    from speechmerge.files import read_json

    if not record.is_file():
        return False
    found = read_json(record)
    return found["key"] == key and all((Path(path) / "wav.scp").is_file() for path in found["directories"])
