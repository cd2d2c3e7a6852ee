"""Names that a network of transformers gives to weights which its published files call otherwise.

Adapters, deltas and merges speak of the network's names; files keep their own (`Entry.name`).
"""
import re

from speechmerge.files import read_json

OMNI = ((r"^thinker\.", ""), (r"^(audio_tower|visual)\.", r"model.\1."),
        (r"^model\.(?!(?:language_model|visual|audio_tower)\.)", "model.language_model."))
RENAMED = {  # model_type of config.json -> (pattern, what it becomes), one after the other
    "qwen2_audio": ((r"^language_model\.lm_head\.", "lm_head."), (r"^language_model\.model\.", "model.language_model."),
                    (r"^(audio_tower|multi_modal_projector)\.", r"model.\1.")),
    "qwen2_5_omni": OMNI, "qwen2_5_omni_thinker": OMNI,
}


def network_name(model_type: str | None, name: str) -> str:
    """The parameter's name in the network; names that are the network's already stay as they are."""
    for pattern, replacement in RENAMED.get(model_type, ()):
        name = re.sub(pattern, replacement, name)
    return name


def by_network_name(folder, entries: dict) -> dict:
    """The entries of a model's folder under the names that its network has for them."""
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    return {network_name(kind, name): entry for name, entry in entries.items()} if kind in RENAMED else entries
