"""Tells how a publisher writes numbers: decimal comma or point, thousands, percent, digits of any script.

A number's digits are never lost. What could be read in two ways stays text, or is read in one with a doubt.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from jobs.scaffold.names import CODES
from jobs.scaffold.texts import BLANKS, Replace, Step, Translate, applied

_INTEGER = re.compile(r"^[+-]?[0-9]{1,18}$")
_PLAIN = re.compile(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$")
_FLOAT = re.compile(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$")
# Thousands never begin with a zero, so 0,500 is a half.
_GROUPS_BY_COMMA = re.compile(r"^[+-]?[1-9][0-9]{0,2}((,[0-9]{3})+|(,[0-9]{2})+,[0-9]{3})(\.[0-9]+)?$")
_GROUPS_BY_DOT = re.compile(r"^[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+(,[0-9]+)?$")
_DECIMAL_COMMA = re.compile(r"^[+-]?[0-9]*,[0-9]+$")
_DIGITS = re.compile(r"^[+-]?[0-9]+$")
_THREE_AFTER_DOT = re.compile(r"^[+-]?[1-9][0-9]{0,2}\.[0-9]{3}$")
_SEPARATORS = "".join(c for c in BLANKS if c not in "\t\r\n\v\f\ufeff") + "'\u2019\u066c"
_GROUPS_APART = re.compile(f"^[+-]?[0-9]{{1,3}}([{re.escape(_SEPARATORS)}][0-9]{{3}})+([.,][0-9]+)?$")
_OTHER_SIGNS = {"\u2212": "-", "\uff0d": "-", "\uff0b": "+", "\uff0e": ".", "\u066b": ".", "\uff0c": ","}
_SIGN = (
    r"(?:[A-Z]{0,3}[$\u00a2-\u00a5\u20a0-\u20cf]|USD|EUR|GBP|JPY|CNY|RMB|HKD|CHF|CAD|AUD|INR|BRL|KRW|SGD|TWD|SEK|NOK|DKK|PLN"
    r"|CZK|Rs\.?|kr\.?|z\u0142)"
)
_CURRENCY = re.compile(rf"^[+-]?{_SIGN}\s*[+-]?[0-9][0-9., ']*$|^[+-]?[0-9][0-9., ']*\s*{_SIGN}$")
_BRACKETS = re.compile(r"^\([0-9][0-9.,]*\)$|^[0-9][0-9.,]*-$")
_MANGLED = 11
_MOST_DIGITS = 38
_ROOMY_SCALE = 6
_NOISE = 15
# No engine's decimal is read from such a text, whatever its digits.
_LARGE_POWER = re.compile(r"[eE][+-]?0*[1-9][0-9]{2}")
_INTEGER_BITS = {"TINYINT": 7, "SMALLINT": 15, "INT": 31, "BIGINT": 63}


@dataclass(frozen=True)
class Doubt:
    """What an engineer should review, with a value of the sample that shows it."""

    text: str
    value: str | None = None


@dataclass(frozen=True)
class Kind:
    """How a column is read.

    Attributes:
        steps: from the trimmed text to one that the type's conversion takes.
        pattern: Spark's pattern of dates and times that are not ISO 8601.
    """

    type: str
    steps: tuple[Step, ...] = ()
    pattern: str | None = None
    doubts: tuple[Doubt, ...] = ()
    unit: str | None = None

    def after(self, *steps: Step, doubt: Doubt | None = None) -> Kind:
        """The same, read after other steps; text stays as published."""
        if self.type == "STRING":
            return self
        doubts = (doubt, *self.doubts) if doubt else self.doubts
        return replace(self, steps=(*steps, *self.steps), doubts=doubts)


@dataclass(frozen=True)
class Commas:
    """What a sample says about its commas.

    Attributes:
        are_decimal: whether other columns have certain decimal commas; None if none is certain.
        delimiter: the file's delimiter, which in files with decimal commas is mostly a semicolon.
    """

    are_decimal: bool | None = None
    delimiter: str | None = None


def is_number_of(text: str, kind: str) -> bool:
    """Whether an engine reads a text as a number of a column type without losing a digit."""
    if kind in _INTEGER_BITS:
        return bool(_INTEGER.match(text)) and -(2 ** _INTEGER_BITS[kind]) <= int(text) < 2 ** _INTEGER_BITS[kind]
    if not _FLOAT.match(text):
        return False
    if kind in ("FLOAT", "DOUBLE"):
        return survives(text) if kind == "DOUBLE" else len(Decimal(text).as_tuple().digits) <= _ROOMY_SCALE
    precision, scale = map(int, kind.removeprefix("DECIMAL(").removesuffix(")").split(","))
    whole, places = _sizes(text)
    return places <= scale and whole <= precision - scale


def survives(text: str) -> bool:
    """Whether the double nearest to a number gives its text back."""
    double = float(text)
    return Decimal(repr(double)) == Decimal(text) and (double == 0 or 2.3e-308 < abs(double) < 1.7e308)


def certain_comma(values: Sequence[str]) -> bool | None:
    """Whether the commas of a column are decimal commas for certain; None if they are no numbers, or either way."""
    if not any("," in v for v in values):
        return None
    english, continental = _as_english(values), _as_continental(values)
    return continental if english != continental else None


def number(values: Sequence[str], words: Sequence[str], commas: Commas) -> Kind | None:
    """How a column of numbers is read; None if it is none.

    Args:
        values: its distinct texts, trimmed and not empty.
        words: the words of its name, of which the last may be one of codes.
        commas: what the rest of the sample says about commas.
    """
    if all(map(_FLOAT.match, values)):
        return _dotted(values, commas) or _exact(values, words)
    foreign = _in_ascii(values)
    if foreign:
        inner = number([foreign.apply(v) for v in values], words, commas)
        return (
            inner.after(foreign, doubt=Doubt("digits or signs of another script are read as ASCII")) if inner else None
        )
    if all(v.endswith("%") for v in values):
        inner = number([v[:-1].strip(BLANKS) for v in values], (), commas)
        steps = (Replace("%"),)
        if inner is None or inner.type == "STRING" or any(v[:-1] != v[:-1].rstrip() for v in values):
            return None
        return replace(inner.after(*steps, doubt=Doubt("percent signs are removed; 5% is 5")), unit="percent")
    apart = _thousands_apart(values)
    if apart:
        inner = number([applied(apart, v) for v in values], words, commas)
        return inner.after(*apart, doubt=Doubt("signs between thousands are removed")) if inner else None
    return _with_commas(values, words, commas)


def why_text(values: Sequence[str], commas: Commas) -> Doubt | None:
    """Why a column with numbers in it stays text."""
    amounts = [v for v in values if _CURRENCY.match(v)]
    if 2 * len(amounts) > len(values):
        return Doubt("amounts with a currency sign are kept as text", amounts[0])
    if any(v.endswith("%") for v in values) and all(
        number([v.rstrip("% ")], (), commas) for v in values if v.rstrip("% ")
    ):
        return Doubt("percentages among other numbers are kept as text", next(v for v in values if v.endswith("%")))
    figures = [v for v in values if _is_figure(v)]
    if len(figures) < len(values) / 2:
        return None
    if len(figures) == len(values):
        return Doubt("dots and commas are used in more than one way, so the numbers are kept as text", _oddest(values))
    other = next(v for v in values if not _is_figure(v))
    return Doubt(f"{len(figures)} of {len(values)} distinct values are numbers, others are not, so it is text", other)


def _is_figure(value: str) -> bool:
    return any(p.match(value) for p in (_FLOAT, _GROUPS_BY_COMMA, _GROUPS_BY_DOT, _DECIMAL_COMMA, _BRACKETS))


def _oddest(values: Sequence[str]) -> str:
    return next((v for v in values if not _FLOAT.match(v)), values[0])


def _as_english(values: Sequence[str]) -> bool:
    return all(_PLAIN.match(v) or _GROUPS_BY_COMMA.match(v) for v in values)


def _as_continental(values: Sequence[str]) -> bool:
    return all(_DIGITS.match(v) or _DECIMAL_COMMA.match(v) or _GROUPS_BY_DOT.match(v) for v in values)


def _with_commas(values: Sequence[str], words: Sequence[str], commas: Commas) -> Kind | None:
    english, continental = _as_english(values), _as_continental(values)
    if not english and not continental:
        return None
    odd = next((v for v in values if "," in v), values[0])
    if english and continental:
        return _either_way(values, words, commas, odd)
    if english:
        return _english(values, words, Doubt("commas between thousands are removed", odd))
    return _continental(values, words, Doubt("commas are read as decimal points", odd))


def _either_way(values: Sequence[str], words: Sequence[str], commas: Commas, odd: str) -> Kind:
    """Read 1,234, which is two numbers, as the rest of the sample says."""
    if commas.are_decimal or (commas.are_decimal is None and commas.delimiter == ";"):
        return _continental(
            values, words, Doubt("commas are read as decimal points; they may stand between thousands", odd)
        )
    are_small = [bool(_DIGITS.match(v)) and abs(int(v)) < 1000 for v in values if "," not in v]
    if commas.are_decimal is False or (are_small and all(are_small)):
        return _english(
            values, words, Doubt("commas are taken between thousands and removed; they may be decimal", odd)
        )
    return Kind("STRING", doubts=(Doubt("its commas may be decimal or stand between thousands, so it is text", odd),))


def _english(values: Sequence[str], words: Sequence[str], doubt: Doubt) -> Kind:
    steps = (Replace(","),)
    return _exact([applied(steps, v) for v in values], words).after(*steps, doubt=doubt)


def _continental(values: Sequence[str], words: Sequence[str], doubt: Doubt) -> Kind:
    dots = (Replace("."),) if any("." in v for v in values) else ()
    steps = (*dots, Replace(",", "."))
    return _exact([applied(steps, v) for v in values], words).after(*steps, doubt=doubt)


def _dotted(values: Sequence[str], commas: Commas) -> Kind | None:
    """The doubt about 1.355 in a file whose other columns have decimal commas."""
    dotted = [v for v in values if "." in v]
    if not commas.are_decimal or not dotted or not all(map(_THREE_AFTER_DOT.match, dotted)):
        return None
    doubt = Doubt(
        "its dots may stand between thousands, as other columns have decimal commas, so it is text", dotted[0]
    )
    return Kind("STRING", doubts=(doubt,))


def _thousands_apart(values: Sequence[str]) -> tuple[Step, ...]:
    """The steps that take blanks and apostrophes from between thousands; none where they stand elsewhere."""
    used = sorted({c for v in values if _GROUPS_APART.match(v) for c in v if c in _SEPARATORS})
    if not used or any(not _GROUPS_APART.match(v) for v in values if any(c in v for c in used)):
        return ()
    return tuple(Replace(c) for c in used)


def _in_ascii(values: Sequence[str]) -> Translate | None:
    pairs: dict[str, str] = {}
    for char in {c for v in values if not v.isascii() for c in v if not c.isascii()}:
        if char in _OTHER_SIGNS:
            pairs[char] = _OTHER_SIGNS[char]
        elif unicodedata.category(char) == "Nd":
            zero = ord(char) - unicodedata.decimal(char)
            pairs |= {chr(zero + n): str(n) for n in range(10)}
    return Translate("".join(pairs), "".join(pairs.values())) if pairs else None


def _exact(values: Sequence[str], words: Sequence[str]) -> Kind:
    """The type that keeps every digit of these numbers, which have a decimal point or none."""
    padded = next((v for v in values if re.match(r"^[+-]?0[0-9]", v)), None)
    if padded:
        return Kind("STRING", doubts=(Doubt("has leading zeros, so it is kept as a code", padded),))
    if any(not _PLAIN.match(v) for v in values):
        return _with_exponents(values)
    if all(map(_INTEGER.match, values)):
        if words and words[-1] in CODES:
            return Kind("STRING")
        return Kind("INT" if max(abs(int(v)) for v in values) < 1_000_000 else "BIGINT")
    if all(map(_DIGITS.match, values)):
        longest = max(values, key=len)
        return Kind("STRING", doubts=(Doubt(f"integers of {len(longest)} digits are kept as text", longest),))
    return _decimal(values)


def _decimal(values: Sequence[str]) -> Kind:
    sizes = [_sizes(v) for v in values]
    whole, scale = max(w for w, _ in sizes), max(p for _, p in sizes)
    if whole + scale <= 16 and scale <= _ROOMY_SCALE:
        # More places than the sample shows: later figures may have them, and would be refused.
        return Kind(f"DECIMAL(18,{max(scale, min(_ROOMY_SCALE, 16 - whole))})")
    if scale > _ROOMY_SCALE and max(w + p for w, p in sizes) >= _NOISE and all(map(survives, values)):
        return Kind("DOUBLE", doubts=(Doubt("so many decimals come from floating point; DOUBLE gives each back"),))
    if whole + scale <= _MOST_DIGITS:
        return Kind(f"DECIMAL(38,{max(scale, min(_ROOMY_SCALE, 36 - whole))})")
    longest = max(values, key=len)
    return Kind("STRING", doubts=(Doubt("has more digits than any number type keeps, so it is text", longest),))


def _with_exponents(values: Sequence[str]) -> Kind:
    powers = [v for v in values if not _PLAIN.match(v)]
    large = next((v for v in powers if Decimal(v).adjusted() >= _MANGLED and _sizes(v)[1] == 0), None)
    long = any(len(v.lstrip("+-")) > _MANGLED for v in values if _DIGITS.match(v))
    if large and long:
        doubt = Doubt("a spreadsheet seems to have cut the digits of some, so it is text", large)
        return Kind("STRING", doubts=(doubt,))
    doubts = (Doubt("written with exponents, as spreadsheets cut long numbers", large),) if large else ()
    if all(map(survives, values)):
        return Kind("DOUBLE", doubts=doubts)
    sizes = [_sizes(v) for v in values]
    whole, scale = max(w for w, _ in sizes), max(p for _, p in sizes)
    if whole + scale <= _MOST_DIGITS:
        return Kind(f"DECIMAL(38,{max(scale, min(_ROOMY_SCALE, _MOST_DIGITS - whole))})", doubts=doubts)
    return Kind("STRING", doubts=(Doubt("has more digits than any number type keeps, so it is text", powers[0]),))


def _sizes(text: str) -> tuple[int, int]:
    """How many digits a number has before its point and after it, zeros at either end left out."""
    if _PLAIN.match(text):
        before, _, behind = text.lstrip("+-").partition(".")
        return len(before.lstrip("0")), len(behind.rstrip("0"))
    if _LARGE_POWER.search(text):
        return _MOST_DIGITS + 1, _MOST_DIGITS + 1
    _, digits, exponent = Decimal(text).as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    if not significant.lstrip("0"):
        return 0, 0
    places = -int(exponent) - (len(digits) - len(significant))
    return max(len(significant.lstrip("0")) - places, 0), max(places, 0)
