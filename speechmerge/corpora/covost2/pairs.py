"""The 36 pairs of CoVoST 2: rows of train, dev and test, from the dataset card of Hugging Face's `covost2`."""
INTO_ENGLISH = {
    "fr": (207374, 14760, 14760), "de": (127834, 13511, 13511), "es": (79015, 13221, 13221),
    "ca": (95854, 12730, 12730),
    "it": (31698, 8940, 8951), "ru": (12112, 6110, 6300), "zh-CN": (7085, 4843, 4898), "pt": (9158, 3318, 4023),
    "fa": (53949, 3445, 3445), "et": (1782, 1576, 1571), "mn": (2067, 1761, 1759), "nl": (7108, 1699, 1699),
    "tr": (3966, 1624, 1629), "ar": (2283, 1758, 1695), "sv-SE": (2160, 1349, 1595), "lv": (2337, 1125, 1629),
    "sl": (1843, 509, 360), "ta": (1358, 384, 786), "ja": (1119, 635, 684), "id": (1243, 792, 844),
    "cy": (1241, 690, 690),
}
FROM_ENGLISH = "de tr fa sv-SE mn zh-CN cy ca sl et id ar ta lv ja".split()
ROWS = {f"{source}_en": rows for source, rows in INTO_ENGLISH.items()}
ROWS |= {f"en_{target}": (289430, 15531, 15531) for target in FROM_ENGLISH}
PAIRS = tuple(ROWS)


def code(language: str) -> str:
    """Whisper's code: `zh-CN` is zh, `sv-SE` sv."""
    return language.split("-")[0]
