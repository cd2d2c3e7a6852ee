"""How far apart two pronunciations are: panphon's weighted feature edit distance, per phone.

    distance, edits = PhoneDistance().compare(["k", "a", "s", "a"], ["k", "a", "z", "a"])    # 0.0086, [("s", "z")]

Replacing a phone costs sum_f w_f |a_f - b_f| / W over the articulatory features f (-1, 0, 1) with panphon's weights w and
W = sum w; adding or leaving out one costs 1 (Mortensen et al. 2016, there not divided by W). The cost of the cheapest
alignment is divided by the longer one's number of phones: 0 is the same, one phone of four left out is 0.25.

panphon reads strings and passes over what it does not know in silence, and an affricate without a tie bar is two phones to
it. Here phones come apart, as a G2P writes them: an affricate in one piece is one phone, a diphthong two, and what panphon
does not know is a phone that is like itself only. Two phones may have the same features (r, ɾ): distance 0 does not mean
equal.
"""
import functools
import re
import unicodedata

from speechmerge.errors import SpeechMergeError

AFFRICATE = re.compile("([tdʈɖcɟpbkɡq])(?=[szʃʒʂʐɕʑçʝfvxɣχ])")
TIE = "\u0361"
# as espeak-ng writes phones that panphon knows otherwise
MARKS = {"g": "ɡ", "r.": "ɽ", 'u"': "ʉ", "ɪ^": "ɨ", "ᵻ": "ɨ", "ɚ": "ə˞", "ɝ": "ɜ˞"}
NONE = "∅"  # stands for no phone in an edit


class PhoneDistance:
    """Phones are strings such as `tʃ`, `aː`; comparisons of the same phones are remembered."""

    def __init__(self):
        self.table = features()
        self.total = sum(self.table.weights)
        self.units = functools.lru_cache(maxsize=None)(self._units)
        self.vector = functools.lru_cache(maxsize=None)(self._vector)
        self.replacing = functools.lru_cache(maxsize=None)(self._replacing)

    def _units(self, phone: str) -> tuple[str, ...]:
        """A phone as written by a G2P -> what is compared: one for an affricate, two for a diphthong."""
        written = repaired(phone)
        return tuple(self.table.ipa_segs(written)) or (written,)

    def _vector(self, unit: str) -> tuple | None:
        """Features of a phone; None where panphon does not know it."""
        found = self.table.word_to_vector_list(unit, numeric=True)
        return tuple(found[0]) if found else None

    def _replacing(self, first: str, second: str) -> float:
        if first == second:
            return 0.0
        a, b = self.vector(first), self.vector(second)
        if a is None or b is None:
            return 1.0
        return sum(weight * abs(x - y) for weight, x, y in zip(self.table.weights, a, b)) / self.total

    def compare(self, first, second) -> tuple[float | None, list[tuple[str, str]]]:
        """(distance per phone, the differing phones as (of the first, of the second), ∅ for none); None without phones."""
        a = [unit for phone in first for unit in self.units(phone)]
        b = [unit for phone in second for unit in self.units(phone)]
        if not a or not b:
            return None, []
        costs = self.costs(a, b)
        return costs[-1][-1] / max(len(a), len(b)), self.edits(a, b, costs)

    def costs(self, a, b) -> list[list[float]]:
        """[len(a) + 1][len(b) + 1]: of the cheapest alignment of the first i with the first j phones."""
        rows = [[float(j) for j in range(len(b) + 1)]]
        for i, phone in enumerate(a, 1):
            row = [float(i)]
            for j, other in enumerate(b, 1):
                row.append(min(rows[-1][j - 1] + self.replacing(phone, other), rows[-1][j] + 1, row[-1] + 1))
            rows.append(row)
        return rows

    def edits(self, a, b, costs) -> list[tuple[str, str]]:
        """The differing phones of a cheapest alignment, from the left; replacing comes before leaving out and adding."""
        i, j, found = len(a), len(b), []
        while i or j:
            if i and j and costs[i][j] == costs[i - 1][j - 1] + self.replacing(a[i - 1], b[j - 1]):
                pair, i, j = (a[i - 1], b[j - 1]), i - 1, j - 1
            elif i and costs[i][j] == costs[i - 1][j] + 1:
                pair, i = (a[i - 1], NONE), i - 1
            else:
                pair, j = (NONE, b[j - 1]), j - 1
            if pair[0] != pair[1]:
                found.append(pair)
        return found[::-1]


def repaired(phone: str) -> str:
    """As panphon knows it: its own letters, an affricate with its tie bar."""
    return AFFRICATE.sub(rf"\1{TIE}", unicodedata.normalize("NFD", MARKS.get(phone, phone)))


@functools.lru_cache(maxsize=1)
def features():
    """panphon's table of phones; reading it takes a second."""
    try:
        from panphon import FeatureTable
    except ImportError as error:
        raise SpeechMergeError("panphon is missing, whose articulatory features phones are compared by; "
                               "run: pip install 'speechmerge[analysis]'") from error
    return FeatureTable()
