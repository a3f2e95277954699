"""Tells encodings of one byte a character apart by the alphabets of the languages that use them.

charset-normalizer judges by the frequency of letters, which a table of names and figures has too few of: it takes ñ for
the ń of cp1250 and a column of Spanish provinces for Big5.
"""

from __future__ import annotations

import re

_LATIN = {
    "cp1252": ("äöüß", "éèêëàâçîïôûùüœæ", "áéíóúñüºª", "ãõáâàéêíóôúçªº", "àèéìíòóùúº", "åäöæøé", "áéíóúëïöü"),
    "cp1250": ("ąćęłńóśżź", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž", "ăâîșțşţ"),
    "cp1254": ("çğıöşüâîiİ",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äöõüšž"),
}  # fmt: skip
# Encodings of the same letters elsewhere, tried where the first does not read well.
_OTHERS = {"cp1252": ("mac_roman", "cp850"), "cp1250": ("iso8859_2", "cp852"), "cp1254": (), "cp1257": ()}
_SCRIPTS = {
    "cp1251": ("абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґў№", "оеаинт"),
    "koi8_r": ("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", "оеаинт"),
    "cp866": ("абвгдеёжзийклмнопрстуфхцчшщъыьэюя№", "оеаинт"),
    "cp1255": ("אבגדהוזחטיךכלםמןנסעףפץצקרשת₪", "יוהלארת"),
    "cp1253": ("αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ", "αοιετσ"),
}
# What stands between words in any language, and is written with a byte of its own.
_NEUTRAL = frozenset("°²³€£§«»–—“”„‘’…·±×\xa0")
_WORD = re.compile(r"[^\W\d_]+")
_TURNED = re.compile(r"[^\W\d_]*[a-zß-öø-ÿа-яα-ω][A-ZÀ-ÖØ-ÞА-ЯΑ-Ω]")
_COMMON = 0.3
_SHORTEST = 3


def by_alphabet(data: bytes) -> str | None:
    """The encoding in which lines with other than ASCII characters are words of one language; None if in none."""
    for encodings in (list(_LATIN), [other for name in _LATIN for other in _OTHERS[name]]):
        for name in encodings:
            alphabets = _LATIN.get(name) or next(_LATIN[n] for n, others in _OTHERS.items() if name in others)
            text = _text(data, name)
            if text is not None and _is_latin(text, alphabets):
                return name
    for name, (alphabet, common) in _SCRIPTS.items():
        text = _text(data, name)
        if text is not None and _is_script(text, alphabet, common):
            return name
    return None


def _text(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _foreign(text: str) -> list[str]:
    return [c for c in text.lower() if not c.isascii() and c not in _NEUTRAL and c != "\u0307"]


def _is_latin(text: str, alphabets: tuple[str, ...]) -> bool:
    """Whether all foreign letters belong to one language and stand among ASCII letters, as they do in words."""
    foreign = set(_foreign(text))
    if not foreign:
        return not text.isascii()
    if not any(foreign <= set(alphabet) for alphabet in alphabets):
        return False
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    mixed = [word for word in words if sum(c.isascii() for c in word) * 2 >= len(word)]
    return 3 * len(mixed) >= 2 * len(words) > 0 and not any(map(_TURNED.match, words))


def _is_script(text: str, alphabet: str, common: str) -> bool:
    """Whether all foreign letters belong to a script, with its common letters and no capital after a small one."""
    foreign = _foreign(text)
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    if not foreign or not set(foreign) <= set(alphabet) or any(map(_TURNED.match, words)):
        return False
    # Two bytes are a character of another script, and a script's small letters are the other's capitals.
    if sum(map(len, words)) < _SHORTEST * len(words) or (alphabet != alphabet.upper() and text == text.upper()):
        return False
    return sum(c in common for c in foreign) >= _COMMON * len(foreign)
