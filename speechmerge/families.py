"""Which languages are related: families and branches of the languages of FLEURS, by Whisper's codes.

    lineage("hi")                              # ("Indo-European", "Indo-Aryan")
    groups({"romance": ["it", "fr"]}, ["it", "fr", "te"], "tree")    # {"romance": ["it", "fr"], "te": ["te"]}

Families and branches as in Glottolog 5 (Hammarström et al., https://glottolog.org), which places a creole with the language
of its words (kea: Cape Verdean) and has neither Altaic nor Nilo-Saharan. Branches are those that are usually compared, not
all of one depth.
"""
import re

from speechmerge.errors import UsageError
from speechmerge.registry import nearest

FAMILIES = {
    "Indo-European": {
        "Germanic": "af da de en is lb nl no sv", "Romance": "ast ca es fr gl it kea oc pt ro",
        "Slavic": "be bg bs cs hr mk pl ru sk sl sr uk", "Baltic": "lt lv", "Celtic": "cy ga", "Greek": "el", "Armenian": "hy",
        "Iranian": "ckb fa ps tg", "Indo-Aryan": "as bn gu hi mr ne or pa sd ur"},
    "Dravidian": {"South Dravidian": "kn ml ta te"},
    "Turkic": {"Common Turkic": "az kk ky tr uz"},
    "Uralic": {"Finnic": "et fi", "Hungarian": "hu"},
    "Afro-Asiatic": {"Semitic": "am ar he mt", "Cushitic": "om so", "Chadic": "ha"},
    "Atlantic-Congo": {"Bantu": "kam lg ln nso ny sn sw umb xh zu", "Defoid": "yo", "Igboid": "ig",
                       "North-Central Atlantic": "ff wo"},
    "Nilotic": {"Western Nilotic": "luo"},
    "Austronesian": {"Greater Central Philippine": "ceb tl", "Malayic": "id ms", "Javanesic": "jw", "Oceanic": "mi"},
    "Sino-Tibetan": {"Sinitic": "yue zh", "Burmo-Qiangic": "my"},
    "Austroasiatic": {"Khmeric": "km", "Vietic": "vi"},
    "Tai-Kadai": {"Tai": "lo th"},
    "Kartvelian": {"Georgian-Zan": "ka"},
    "Mongolic-Khitan": {"Mongolic": "mn"},
    "Japonic": {"Japanesic": "ja"},
    "Koreanic": {"Korean": "ko"},
}
LINEAGES = {code: (family, branch) for family, branches in FAMILIES.items() for branch, codes in branches.items()
            for code in codes.split()}


def lineage(name: str) -> tuple[str, str] | None:
    """(family, branch) of a language's code, also with more behind it (hi_in, it-r16); None where it is not in the table."""
    return LINEAGES.get(name) or LINEAGES.get(re.split("[_-]", name)[0])


def groups(tree: dict, labels, place: str) -> dict[str, list]:
    """{family: its labels} of all labels; those that the tree does not name are families of their own. UsageError (`place`
    begins it) for a label that is not there or is named twice."""
    named = [label for members in tree.values() for label in members]
    for label in named:
        if label not in labels:
            raise UsageError(f"{place} names {label!r}; {nearest(label, labels)}")
        if named.count(label) > 1:
            raise UsageError(f"{place} names {label!r} twice")
    for label in labels:
        if label in tree and label not in named:
            raise UsageError(f"{place}: the family {label!r} is called as a label that it does not hold; call it otherwise")
    return {**{family: list(members) for family, members in tree.items()},
            **{label: [label] for label in labels if label not in named}}
