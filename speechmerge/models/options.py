"""The options of every verb that loads a model."""
from speechmerge.models.base import CONTEXTS, DTYPES, load_model


def add_model_arguments(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--model", required=True, help="folder or hub id of the base model")
    group.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:N")
    group.add_argument("--dtype", default="float32", choices=DTYPES, help="type of the weights")
    group.add_argument("--audio-context", default="full", choices=CONTEXTS,
                       help="full: all the encoder holds (Whisper: 30 s); dynamic: as much as an utterance needs")
    group.add_argument("--audio-context-min", type=float, default=2.0, help="seconds, at least, where it is dynamic")
    group.add_argument("--audio-context-step", type=float, default=0.5, help="seconds; rounded up to multiples of it")


def model_from(args):
    context = (args.audio_context, args.audio_context_min, args.audio_context_step)
    return load_model(args.model, args.device, args.dtype, *context)
