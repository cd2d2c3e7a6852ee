"""What a model sees of one training example, from the batch that training would make of it.

    row = seen(model, task, data, example)     # {"id", "item", "prompt", "target", "tokens": [[id, "text", loss]], ...}
"""
from itertools import groupby

from speechmerge.models.base import Item

INPUTS = ("input_ids", "decoder_input_ids")  # of the families whose network reads the tokens before the one to write
IGNORED = -100


def seen(model, task, data, example) -> dict:
    """One example as it goes into the network. Tokens: [id, as text, whether its prediction carries loss]."""
    item = Item(example, model.features(example.audio, example.id), model.seconds(example))
    batch = model.collate([item], task, training=True)
    sequence = tokens(batch)
    shown = [[id, token_text(model, id), loss] for id, loss in sequence]
    return {
        "id": example.id, "item": raw(data, example), "prompt": example.prompt, "target": task.written(example.target),
        "audio_seconds": round(item.seconds, 3) if example.audio else 0.0, "left_out": model.fits(example, task),
        "inputs": {name: list(value.shape) for name, value in batch.items() if hasattr(value, "shape")},
        "text": "".join(text for _, text, _ in shown), "tokens": shown, "loss_tokens": sum(loss for *_, loss in shown),
    }


def raw(data, example) -> dict:
    """The utterance's columns of the data directory; of a pair the audio."""
    utterance = data.utterances.get(example.id.partition("@")[0])
    if utterance is None:
        return {"audio": list(example.audio), "target": example.target}
    columns = {"audio": utterance.audio, "text": utterance.text, "speaker": utterance.speaker,
               "language": utterance.language, "duration": utterance.duration, **utterance.labels}
    return {name: value for name, value in columns.items() if value is not None}


def tokens(batch: dict) -> list[tuple[int, bool]]:
    """(id, carries loss) in order. Where the network reads tokens, the label of a position is the token after it; the
    others (labels of frames or of the whole utterance) learn all their labels."""
    labels = batch["labels"].reshape(-1).tolist()
    name = next((name for name in INPUTS if name in batch), None)
    if name is None:
        return [(label, True) for label in labels if label != IGNORED]
    ids = batch[name][0].tolist()
    following = [label if label != IGNORED else id for label, id in zip(labels, [*ids[1:], IGNORED])]
    found = [(ids[0], False), *((id, label != IGNORED) for id, label in zip(following, labels))]
    return [pair for pair in found if pair[0] != IGNORED]


def token_text(model, id: int) -> str:
    tokenizer = model.tokenizer
    return tokenizer.decode([id]) if hasattr(tokenizer, "decode") else str(id)


def lines(row: dict, number: int, total: int) -> list[str]:
    """One example to read; repeated tokens (places of the audio) are counted."""
    reason = f"; left out of training: {row['left_out']}" if row["left_out"] else ""
    learnt = [(id, text) for id, text, loss in row["tokens"] if loss]
    given = [text for _, text, loss in row["tokens"] if not loss]
    return [f"--- {number} of {total}: {row['id']}, {row['audio_seconds']:g} s of audio{reason}",
            *(f"    {name}: {value}" for name, value in row["item"].items()),
            f"prompt: {row['prompt']!r}", f"target: {row['target']!r}",
            f"network: {', '.join(f'{name} {shape}' for name, shape in row['inputs'].items())}",
            f"tokens without loss ({len(given)}): " + shortened(given),
            f"tokens with loss ({len(learnt)}): " + " ".join(f"{text!r}/{id}" for id, text in learnt), ""]


def shortened(texts) -> str:
    runs = ((text, len(list(group))) for text, group in groupby(texts))
    return "".join(text if count < 4 else f"{text}[x{count}]" for text, count in runs).replace("\n", "\\n")
