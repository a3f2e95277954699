"""Steps from a published text to one that an engine can convert: each as SQL, and as Python to try it on the sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from jobs.declared.sql import literal

# White space of every script, and marks that take no room. Joiners belong to words of some scripts.
BLANKS = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\u180e\u200b\u2060\ufeff"


class Step(Protocol):
    """One step; `sql` computes of an SQL expression what `apply` computes of a text."""

    def sql(self, text: str) -> str:
        """SQL of the changed text."""

    def apply(self, text: str) -> str:
        """The changed text."""


@dataclass(frozen=True)
class Trim:
    """Takes blanks off both ends."""

    blanks: str = " "

    def sql(self, text: str) -> str:
        """SQL of the changed text."""
        return f"trim({text})" if self.blanks == " " else f"trim(BOTH {literal(self.blanks)} FROM {text})"

    def apply(self, text: str) -> str:
        """The changed text."""
        return text.strip(self.blanks)


@dataclass(frozen=True)
class Replace:
    """Replaces a text wherever it stands."""

    old: str
    new: str = ""

    def sql(self, text: str) -> str:
        """SQL of the changed text."""
        return f"replace({text}, {literal(self.old)}, {literal(self.new)})"

    def apply(self, text: str) -> str:
        """The changed text."""
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Translate:
    """Replaces characters one by one."""

    old: str
    new: str

    def sql(self, text: str) -> str:
        """SQL of the changed text."""
        return f"translate({text}, {literal(self.old)}, {literal(self.new)})"

    def apply(self, text: str) -> str:
        """The changed text."""
        return text.translate(str.maketrans(self.old, self.new))


def applied(steps: Iterable[Step], text: str) -> str:
    """A text after all steps."""
    for step in steps:
        text = step.apply(text)
    return text


def trim_of(values: Iterable[str]) -> Trim | None:
    """The step that takes off the blanks around these texts; None if there are none."""
    found: set[str] = set()
    for value in values:
        inner = value.strip(BLANKS)
        if len(inner) != len(value):
            start = value.find(inner) if inner else len(value)
            found.update(value[:start], value[start + len(inner) :])
    if not found:
        return None
    return Trim("".join([" ", *sorted(found - {" "})]))
