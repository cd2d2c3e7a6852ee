"""The states that probes read: which frames of which utterances, of what time, and their states layer by layer."""
import random
from dataclasses import dataclass

import numpy as np

from speechmerge.analysis.probing_targets import phones_at, word_type
from speechmerge.analysis.representations import batches
from speechmerge.errors import SpeechMergeError

# Time of position 0 in distances of positions: padded convolutions begin at 0, OWSM's two bare ones look ahead
CENTRES = {"whisper": 0.0, "qwen_audio": 0.0, "owsm": 0.75}
CENTRE = 0.5  # of the other families
GRID = 0.0025  # s; distances of positions are multiples of it
MEASURED = 48  # utterances of each set that the distance is measured on


@dataclass(frozen=True)
class Sound:
    """One set: its task, its examples with their features, their times and where these come from, its speakers."""

    name: str
    task: object
    examples: list
    cache: object
    times: dict
    source: str
    speakers: dict


@dataclass(frozen=True)
class Sample:
    """What is looked at of one utterance: positions of its frames and their phones; its words as (first position, last
    one exclusive, word)."""

    name: str
    id: str
    speaker: str | None
    frames: list[int]
    phones: list[str]
    words: list[tuple[int, int, str]]


def position_seconds(model, sounds: list[Sound], layer: int) -> float:
    """The distance of two positions: the slope of durations over positions that hold sound, rounded to GRID."""
    seconds, lengths = [], []
    for sound in sounds:
        for indices, batch in batches(model, sound.task, sound.examples[:MEASURED], sound.cache):
            lengths += model.encoder_states(batch, layer)[1].tolist()
            seconds += [model.seconds(sound.examples[i]) for i in indices]
    seconds, lengths = np.array(seconds), np.array(lengths)
    step = seconds.sum() / lengths.sum()  # a little off: the first and the last position reach beyond the sound
    if len(lengths) >= 4 and lengths.std() > 5:
        step = float(np.polyfit(lengths, seconds, 1)[0])
    return max(round(step / GRID), 1) * GRID


def sample_of(example, sound: Sound, family: str, seconds: float, step: float, most: int, seed: int) -> Sample:
    """At most `most` frames that lie in phones, drawn by the utterance's id: the same for all systems and layers."""
    own, centre = sound.times[example.id], CENTRES.get(family, CENTRE)
    times = [(place + centre) * step for place in range(max(int(seconds / step - centre), 0) + 1)]
    times = [time for time in times if time < seconds]
    spoken = [(place, number) for place, number in enumerate(phones_at(own.phones, times)) if number is not None]
    drawn = sorted(random.Random(f"{seed}/{example.id}").sample(spoken, min(most, len(spoken))))
    inside, words = phones_at(own.words, times), []
    for number, word in enumerate(own.words):
        if number in inside:
            first = inside.index(number)
            words.append((first, first + inside.count(number), word_type(word.text)))
    return Sample(sound.name, example.id, sound.speakers.get(example.id), [place for place, _ in drawn],
                  [own.phones[number].text for _, number in drawn], words)


def harvest(model, sounds: list[Sound], samples: dict[tuple[str, str], Sample], layers: list[int]) -> dict:
    """Layer -> (states of all frames [N, d], of all words [M, d], their mean over the word), float32, in the order
    of `samples` {(set, utterance): Sample}. In memory are one batch of utterances and the frames that were drawn."""
    found = {layer: {} for layer in layers}
    for sound in sounds:
        for indices, batch in batches(model, sound.task, sound.examples, sound.cache):
            for layer, states, lengths in model.layer_states(batch, layers):
                for index, own, length in zip(indices, states.float().cpu().numpy(), lengths.tolist()):
                    key = (sound.name, sound.examples[index].id)
                    found[layer][key] = picked(samples[key], own[:length])
    return {layer: tuple(np.concatenate([rows[key][part] for key in samples]) for part in (0, 1))
            for layer, rows in found.items()}


def picked(sample: Sample, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """states: the positions of one utterance that hold sound [T, d]; a word's end beyond them is cut."""
    last = max([*sample.frames, *(first for first, _, _ in sample.words)], default=0)
    if last >= len(states):
        raise SpeechMergeError(f"{sample.name}/{sample.id}: {len(states)} positions hold sound, but the alignment has "
                               f"a phone at position {last}; the times are of other audio, run `speechmerge align`")
    words = [states[first:end].mean(0) for first, end, _ in sample.words]
    return states[sample.frames], np.stack(words) if words else np.zeros((0, states.shape[1]), np.float32)
