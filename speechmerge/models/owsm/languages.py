"""ISO 639 codes: OWSM names languages by three letters (`<ita>`), our tables mostly by two, as Whisper does (`it`)."""

_TABLE = """
aa aar ab abk ae ave af afr ak aka am amh an arg ar ara as asm av ava ay aym az aze ba bak be bel bg bul bi bis bm bam
bn ben bo bod br bre bs bos ca cat ce che ch cha co cos cr cre cs ces cu chu cv chv cy cym da dan de deu dv div dz dzo
ee ewe el ell en eng eo epo es spa et est eu eus fa fas ff ful fi fin fj fij fo fao fr fra fy fry ga gle gd gla gl glg
gn grn gu guj gv glv ha hau haw haw he heb hi hin ho hmo hr hrv ht hat hu hun hy hye hz her ia ina id ind ie ile ig ibo
ii iii ik ipk io ido is isl it ita iu iku ja jpn jw jav jv jav ka kat kg kon ki kik kj kua kk kaz kl kal km khm kn kan
ko kor kr kau ks kas ku kur kv kom kw cor ky kir la lat lb ltz lg lug li lim ln lin lo lao lt lit lu lub lv lav mg mlg
mh mah mi mri mk mkd ml mal mn mon mr mar ms msa mt mlt my mya na nau nb nob nd nde ne nep ng ndo nl nld nn nno no nor
nr nbl nv nav ny nya oc oci oj oji om orm or ori os oss pa pan pi pli pl pol ps pus pt por qu que rm roh rn run ro ron
ru rus rw kin sa san sc srd sd snd se sme sg sag si sin sk slk sl slv sm smo sn sna so som sq sqi sr srp ss ssw st sot
su sun sv swe sw swa ta tam te tel tg tgk th tha ti tir tk tuk tl tgl tn tsn to ton tr tur ts tso tt tat tw twi ty tah
ug uig uk ukr ur urd uz uzb ve ven vi vie vo vol wa wln wo wol xh xho yi yid yo yor za zha zh zho zu zul
""".split()
THREE = dict(zip(_TABLE[::2], _TABLE[1::2]))
TWO = {three: two for two, three in THREE.items() if two != "jw"}
# where a vocabulary has the one and not the other: macrolanguages and their largest member
ALIASES = {"ara": "arb", "aze": "azj", "est": "ekk", "fas": "pes", "lav": "lvs", "mon": "khk", "msa": "zsm",
           "nep": "npi", "nor": "nob", "ori": "ory", "orm": "gaz", "pus": "pbt", "sqi": "als", "swa": "swh",
           "tgl": "fil", "uzb": "uzn", "yid": "ydd", "zho": "cmn"}


def candidates(code: str) -> list[str]:
    """Names under which a vocabulary may have a language: `pa-IN` -> pan, then pa. The code itself may be ISO 639-3."""
    base = code.replace("_", "-").split("-")[0].lower()
    three = THREE.get(base, base)
    known = {**ALIASES, **{other: name for name, other in ALIASES.items()}}
    return list(dict.fromkeys([code, three, *([known[three]] if three in known else []), base]))


def short(code: str) -> str:
    """The code that our tables use for a name of three letters: two letters where there are, else the same."""
    back = {other: name for name, other in ALIASES.items()}
    return TWO.get(code) or TWO.get(back.get(code, code), code)
