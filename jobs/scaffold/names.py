"""Turns publishers' names into columns of the house: lower-case ASCII words, unit last, and each name once."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from anyascii import anyascii

from jobs.declared.published import PublishedColumn, names_of

_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
UNITS = {
    "mw": "MW", "kw": "kW", "gw": "GW", "mwh": "MWh", "kwh": "kWh", "gwh": "GWh", "twh": "TWh", "mj": "MJ", "gj": "GJ",
    "usd": "USD", "eur": "EUR", "hkd": "HKD", "cny": "CNY", "rmb": "CNY", "gbp": "GBP", "jpy": "JPY", "km": "km",
    "percent": "percent", "pct": "percent", "kg": "kg", "celsius": "°C", "hours": "hours",
    "minutes": "minutes", "seconds": "seconds", "days": "days", "years": "years", "persons": "persons",
    "bytes": "bytes",
}  # fmt: skip
CODES = frozenset({
    "id", "code", "no", "key", "ref", "cik", "isbn", "isin", "fips", "zip", "postcode", "phone", "sku", "symbol",
    "ticker", "uuid", "guid",
})  # fmt: skip
TIME_WORDS = frozenset({"date", "day", "time", "datetime", "timestamp", "at", "on"})
_ENDINGS = {"DATE": "on", "TIMESTAMP": "at"}
_SPELLED = {"%": " percent ", "°C": " celsius ", "℃": " celsius "}
_LONGEST = 60
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")


def words_of(published: str) -> list[str]:
    """Split a published name into lower-case ASCII words; other scripts are transliterated, accents folded."""
    text = published
    for sign, spelled in _SPELLED.items():
        text = text.replace(sign, spelled)
    words: list[str] = []
    for word in re.split(r"[^A-Za-z0-9]+", anyascii(_HAN.sub(_in_pinyin, text))):
        # A unit with inner capitals is one word: MWh, kW.
        parts = [word] if word.lower() in UNITS else _CAPITALS.sub(" ", word).split()
        words += [part.lower() for part in parts]
    return [word for word in words if word]


def _in_pinyin(han: re.Match[str]) -> str:
    # By words: one character at a time, 地区 would be de_qu.
    from pypinyin import lazy_pinyin

    return " " + " ".join(lazy_pinyin(han.group())) + " "


def column_name(words: Sequence[str], kind: str, taken: Collection[str]) -> str:
    """Name a column of a type after its published words, unlike the names that are taken already."""
    parts = list(words)
    unit = next((w for w in parts[:-1] if w in UNITS), None)
    if unit:
        parts.remove(unit)
        parts.append(unit)
    if ending := _ENDINGS.get(kind):
        parts = [w for w in parts if w not in TIME_WORDS] or ["observed"]
        parts.append(ending)
    if kind == "BOOLEAN" and parts[:1] not in (["is"], ["has"]):
        parts.insert(0, "is")
    name = "_".join(parts) or f"column_{len(taken) + 1}"
    if not name[0].isalpha():
        name = f"value_{name}"
    name = name[:_LONGEST].rstrip("_")
    while name in taken:
        name = f"{name}_{len(taken) + 1}"
    return name


def unit_of(name: str) -> str | None:
    """The unit that a column's name ends in."""
    return UNITS.get(name.rsplit("_", 1)[-1])


def known_as(names: Sequence[str]) -> tuple[str, ...]:
    """Columns for published names that differ: where bookkeeping or SQL forbids a name, known under another."""
    taken: set[str] = set()
    columns: list[str] = []
    for name in sorted(names, key=lambda n: n.startswith("_")):
        own = name.lstrip("_ ") or "column"
        while own.lower() in taken:
            own = f"{own}_{len(taken) + 1}"
        taken.add(own.lower())
        columns.append(PublishedColumn(own, (name,)))
    return tuple(sorted(columns, key=lambda c: names.index(names_of(c)[0])))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Published names, each made different from those before it in more than case, which SQL ignores."""
    unique: list[str] = []
    folded: set[str] = set()
    for position, name in enumerate(names, start=1):
        own = name or f"column_{position}"
        while own.casefold() in folded:
            own = f"{own}_{position}"
        folded.add(own.casefold())
        unique.append(own)
    return tuple(unique)
