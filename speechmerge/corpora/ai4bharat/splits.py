"""Who is in train, dev and test: the publisher's sets without conversations in two of them, or sets by speaker.

    keep_groups_apart(found)                              # published sets; a conversation of dev or test leaves train
    by_speaker(found, dev_share=0.1, test_share=0.1)      # no speaker and no group in two of train, dev and test
"""
import hashlib
from collections import defaultdict

from speechmerge.corpora.gather import Gathered
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError

MAIN = ("train", "dev", "test")


def keep_groups_apart(found: Gathered):
    """A group (recording, conversation, bulletin) of test leaves dev and train, one of dev leaves train; counted."""
    taken: set[str] = set()
    for split in reversed(MAIN):
        own = found.splits.get(split, {})
        shared = [id for id, utterance in own.items() if utterance.labels["group"] in taken]
        for id in shared:
            del own[id]
        found.skip(f"in {split}, its recording also in a later set", len(shared))
        taken |= {utterance.labels["group"] for utterance in own.values()}


def shared_speakers(splits: dict[str, dict[str, Utterance]]) -> set[str]:
    """Speakers of train who are also in dev or test."""
    speakers = {split: {utterance.speaker for utterance in splits.get(split, {}).values()} for split in MAIN}
    return speakers["train"] & (speakers["dev"] | speakers["test"])


def by_speaker(found: Gathered, dev_share: float, test_share: float, seed: int = 0):
    """All sets of a source in one language pooled and cut anew into train, dev and test.

    Utterances that share a speaker or a group, directly or through others, stay together. These components come in
    the order of a hash of their speakers: the first go to test until it has `test_share` of all, the next to dev.
    Noisy versions of the speakers of test become test_noisy, the others are left out and counted.
    """
    noisy, pooled = {}, {}
    for split, own in found.splits.items():
        (noisy if split.endswith("_noisy") else pooled).update(own)
    parts = sorted(components(pooled.values()), key=lambda part: order(part, seed))
    if len(parts) < 3:
        raise SpeechMergeError(f"{found.source} {found.language}: {len(parts)} independent groups of speakers, "
                               "expected at least three for train, dev and test; use --param splits=published")
    found.splits = {split: {} for split in MAIN}
    for place, part in enumerate(parts):
        split = next_split(found.splits, len(pooled), dev_share, test_share, len(parts) - place)
        found.splits[split].update((utterance.id, utterance) for utterance in part)
    speakers = {utterance.speaker for utterance in found.splits["test"].values()}
    kept = {id: utterance for id, utterance in noisy.items() if utterance.speaker in speakers}
    found.skip("noisy, its speaker not in test", len(noisy) - len(kept))
    if kept:
        found.splits["test_noisy"] = kept


def next_split(splits, total: int, dev_share: float, test_share: float, left: int) -> str:
    """Where the next component goes; each set gets at least one, `left` counts the components that are to be placed."""
    if len(splits["test"]) < test_share * total and (not splits["test"] or left > 2):
        return "test"
    if len(splits["dev"]) < dev_share * total and (not splits["dev"] or left > 1):
        return "dev"
    return "train"


def components(utterances) -> list[list[Utterance]]:
    """Utterances that are tied by speakers and groups."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            leader[key] = key = leader[leader[key]]
        return key

    utterances = list(utterances)
    for utterance in utterances:
        leader[find(f"speaker {utterance.speaker}")] = find(f"group {utterance.labels['group']}")
    parts = defaultdict(list)
    for utterance in utterances:
        parts[find(f"speaker {utterance.speaker}")].append(utterance)
    return list(parts.values())


def order(part: list[Utterance], seed: int) -> str:
    return hashlib.sha256(f"{seed}:{min(utterance.speaker for utterance in part)}".encode()).hexdigest()
