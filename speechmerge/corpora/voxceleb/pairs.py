"""Pairs to train verification on: of one speaker, and of two."""
import random

from speechmerge.errors import SpeechMergeError

TRIES = 50  # draws for a pair that is not there yet


def draw_pairs(own: dict[str, list[str]], genders: dict[str, str], options) -> list[tuple[str, str, bool]]:
    """(wav, wav, same speaker): for each speaker `positive_pairs` and `negative_pairs`, no pair twice, in any order.

    own: {speaker: wavs}. genders: {speaker: gender} where both of two speakers must have the same, else empty. Who
    has fewer different pairs gets as many as there are. SpeechMergeError where there is none of a kind at all.
    """
    rng, pairs = random.Random(f"pairs:{options.draw}"), {}
    for speaker in sorted(own):
        add(pairs, options.positive_pairs, True, lambda: same_speaker(rng, own[speaker], options.other_video))
    for speaker in sorted(own):
        others = [other for other in sorted(own) if other != speaker and genders.get(other) == genders.get(speaker)]
        if others:
            add(pairs, options.negative_pairs, False, lambda: two_speakers(rng, own, speaker, others))
    kinds = {True: "of one speaker", False: "of two speakers" + (" of the same gender" if genders else "")}
    for same, what in kinds.items():
        if same not in pairs.values():
            raise SpeechMergeError(f"voxceleb: no pair {what} can be made of {len(own)} speakers; take more of them")
    return [(first, second, same) for (first, second), same in pairs.items()]


def add(pairs: dict, count: int, same: bool, draw):
    """`count` new pairs, or as many as are found."""
    for _ in range(count):
        for _ in range(TRIES):
            pair = draw()
            if pair and pair not in pairs and pair[::-1] not in pairs:
                pairs[pair] = same
                break


def same_speaker(rng, wavs: list[str], other_video: bool) -> tuple[str, str] | None:
    first = rng.choice(wavs)
    videos = {wav.split("/")[1] for wav in wavs}
    if other_video and len(videos) > 1:
        choices = [wav for wav in wavs if wav.split("/")[1] != first.split("/")[1]]
    else:
        choices = [wav for wav in wavs if wav != first]
    return (first, rng.choice(choices)) if choices else None


def two_speakers(rng, own: dict[str, list[str]], speaker: str, others: list[str]) -> tuple[str, str]:
    return rng.choice(own[speaker]), rng.choice(own[rng.choice(others)])
