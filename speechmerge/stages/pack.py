"""speechmerge pack --system kws --exp-dir exp --output-dir exp/packed/kws [--base openai/whisper-small] [--push ORG/NAME]"""
from speechmerge.options import boolean

HELP = "make a folder to share of an adapter or a merged model, with a model card; push it to the hub"


def add_arguments(parser):
    parser.add_argument("--system", required=True, help="name out of exp/adapters.json, tag of a merge, or a folder")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder, for names and scores")
    parser.add_argument("--output-dir", required=True, help="the folder to make; an older pack there is replaced")
    parser.add_argument("--model", help="the base, where the system does not say what it was trained on")
    parser.add_argument("--base", help="what the base is called on the hub, where it was trained from a local copy")
    parser.add_argument("--push", metavar="ORG/NAME", help="also upload it to the Hugging Face hub")
    parser.add_argument("--private", type=boolean, default=False, help="--push: to a private repository")
    parser.add_argument("--force", type=boolean, default=False, help="replace a folder that is no earlier pack")


def run(args):
    from speechmerge.packing import check_token, find_system, pack, push

    if args.push:
        check_token(args.push)
    system = find_system(args.system, args.exp_dir)
    folder = pack(system, args.exp_dir, args.output_dir, args.base, args.model, args.force)
    print(f"{folder}: packed {args.system}")
    if args.push:
        print(push(folder, args.push, args.private))
