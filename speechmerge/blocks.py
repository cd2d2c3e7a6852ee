"""Where a parameter lies in its model: the transformer block, counted apart for each part (encoder, decoder, ...).

    block_of("model.decoder.layers.3.fc1.weight")          -> ("decoder", 3)      Whisper
    block_of("encoder.layers.11.attention.k_proj.weight")  -> ("encoder", 11)     HuBERT, wav2vec 2.0, WavLM
    block_of("encoder.encoders.0.cgmlp.norm.weight")       -> ("encoder", 0)      ESPnet
    block_of("audio_tower.layers.7.fc1.weight")            -> ("audio_tower", 7)  Qwen2-Audio
    block_of("language_model.model.layers.7.mlp.up.bias")  -> ("decoder", 7)      its language model
    block_of("feature_extractor.conv_layers.0.conv.weight") -> None               embeddings, convolutions, heads

Prefixes (`base_model.model.`, `upstream.`, `thinker.`) do not matter. A stack that lies in no named part, such as a
bare `model.layers.3`, has the part "". Whatever speaks (Qwen2.5-Omni's `talker`) or sees (`visual`), and the
self-supervised model in an ESPnet `frontend`, are parts of their own, so that their blocks are not taken for those of
the encoder.
"""
import functools
import re

CONTAINERS = {"layers", "layer", "blocks", "block", "h", "encoders", "decoders"}
# parents whose `layers` are convolutions or bottlenecks, no transformer blocks: positional convolution, wav2vec 2.0's
# length adapter, SpeechT5's pre- and postnets, feature extractors
NO_BLOCKS = re.compile(r"pos_conv.*|adapter|.*(pre|post)net|feature_.*|conv.*")
OWN_PARTS = ("frontend", "audio_tower", "visual", "talker")  # stronger than encoder and decoder
LANGUAGE_MODELS = ("language_model", "thinker")
GROUPINGS = ("module", "block")  # what one layer of layer-wise coefficients is


@functools.lru_cache(maxsize=1 << 16)
def block_of(name: str) -> tuple[str, int] | None:
    """(part, index from 0) of the block that the parameter `name` lies in, None outside blocks."""
    words = name.split(".")
    for place, (word, number) in enumerate(zip(words, words[1:])):
        if word in CONTAINERS and number.isdigit():
            if place and NO_BLOCKS.fullmatch(words[place - 1]):
                return None
            return _part(words[:place], word), int(number)
    return None


def group_of(name: str, group_by: str = "module") -> str:
    """What the parameter `name` shares its coefficients with: its module, or its block (`encoder.3`, else `outside`)."""
    if group_by == "module":
        return name.rpartition(".")[0]
    block = block_of(name)
    return f"{block[0]}.{block[1]}" if block else "outside"


def _part(path: list[str], container: str) -> str:
    """The part that the stack below `path` belongs to: one of OWN_PARTS, else what the innermost name says."""
    words = [container.removesuffix("s"), *reversed(path)]
    for own in OWN_PARTS:
        if own in words:
            return own
    for word in words:
        for part in ("encoder", "decoder"):
            if word.endswith(part):
                return part
    return "decoder" if any(word in LANGUAGE_MODELS for word in words) else ""


def indices(names) -> dict[str, list[int]]:
    """Part -> the block indices, ascending, that any of the parameters lies in."""
    found = {block for block in map(block_of, names) if block}
    return {part: sorted(index for where, index in found if where == part)
            for part in sorted({part for part, _ in found})}


def depths(names) -> dict[str, int]:
    """Part -> number of blocks, which is the highest index + 1: also where only some of them are adapted."""
    return {part: numbers[-1] + 1 for part, numbers in indices(names).items()}
