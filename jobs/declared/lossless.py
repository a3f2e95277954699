"""SQL that says where published text loses something on its way to a column's type; engines agree on every part of it.

An engine's own cast keeps quiet: it reads 2024 as 1 January, cuts an instant after microseconds, rounds a number to the
nearest double and 1e400 to infinity. Each condition therefore begins with the cheapest test that clears ordinary text
(over 2 million rows a regular expression takes 120 ms of processor time, a length 10 ms).
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.declared.sql import literal

# Engines ignore white space around a value, not only the blanks that TRIM removes.
_SPACE = "[ \t\r\n]*"
_DIGITS = "[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)"
_NUMBER = f"^{_SPACE}{_DIGITS}([eE][+-]?[0-9]+)?{_SPACE}$"
# An exponent of at most two digits: with more, no number fits 38 digits.
_POWER = f"^{_SPACE}{_DIGITS}[eE][+-]?0*[0-9]{{1,2}}{_SPACE}$"
_DATE = f"^{_SPACE}[+]?[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}{_SPACE}$"
_TIME = "[0-9]{1,2}:[0-9]{1,2}(:[0-9]{1,2}([.][0-9]{0,6}0*)?)?"
_INSTANT = f"^{_SPACE}[+]?[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}([ T]{_TIME}( ?[A-Za-z+-].*)?)?{_SPACE}$"
_WORD = f"^{_SPACE}(true|t|yes|y|1|false|f|no|n|0){_SPACE}$"
# Everything in a number's text but its significant digits.
_NOT_SIGNIFICANT = f"^{_SPACE}[+-]?[0.]*|[.]|[0.]*([eE].*)?{_SPACE}$"
# The shortest text with a full date and a time of day whose fraction is cut: 2024-1-5 1:1:1.1234567.
_SHORTEST_CUT = 22
# The colon of a time of day that follows a date comes after at least eight characters and a blank.
_EARLIEST_COLON = 10
# Digits that every text keeps on its way through the type, and the smallest number with full precision.
_FLOATING = {"DOUBLE": (15, "2.2250738585072014E-308"), "FLOAT": (6, "1.17549435E-38")}
# More than the largest exponent of `_POWER`, so that the dot always falls among digits.
_ZEROS = "repeat('0', 100)"


@dataclass(frozen=True)
class Text:
    """SQL of a text, trimmed, and of its conversion to a type like ``DECIMAL(18,6)``, which may be null."""

    text: str
    converted: str
    type: str

    @property
    def is_lost(self) -> str | None:
        """SQL that is true where a non-null conversion denotes less than the text did; None if no engine does that.

        DECIMAL is left to `has_surplus`, but for digits outside ASCII, which only Spark reads.
        """
        if self.type == "DATE":
            return f"NOT {self.text} RLIKE {literal(_DATE)}"
        if self.type == "TIMESTAMP":
            plain = (
                f"length({self.text}) BETWEEN {_EARLIEST_COLON + 1} AND {_SHORTEST_CUT - 1}"
                f" AND instr({self.text}, ':') >= {_EARLIEST_COLON}"
            )
            return f"CASE WHEN {plain} THEN false ELSE NOT {self.text} RLIKE {literal(_INSTANT)} END"
        if self.type in _FLOATING:
            return self._is_rounded()
        if self.type == "BOOLEAN":
            # The embedded engine reads parts of words, too, and "on" and "off".
            plain = f"{self.text} IN ('true', 'false')"
            return f"CASE WHEN {plain} THEN false ELSE NOT lower({self.text}) RLIKE {literal(_WORD)} END"
        return f"octet_length({self.text}) <> length({self.text})" if self.type.startswith("DECIMAL") else None

    def has_surplus(self, scale: int) -> str:
        """SQL that is true where the text of a number has more decimals than ``scale``, which an engine would round."""
        plain = f"{self.text} RLIKE {literal(f'^{_SPACE}[+-]?[0-9]*[.]?[0-9]{{0,{scale}}}0*{_SPACE}$')}"
        kept = f"{significant(self.text)} = {significant(f'CAST({self.converted} AS STRING)')}"
        surplus = f"CASE WHEN {plain} THEN false WHEN {self.text} RLIKE {literal(_POWER)} THEN NOT {kept} ELSE true END"
        # With a negative exponent, as in 1.E-9, at least three characters follow the dot.
        long = f"length({self.text}) - instr({self.text}, '.') > {min(scale, 2)}"
        return f"CASE WHEN {long} THEN {surplus} ELSE false END"

    def _is_rounded(self) -> str:
        """True where the shortest text of the double is another number than the text, and for NaN and infinities.

        Java before 19 writes some doubles beyond 1e16 with a digit too many, so Spark on it also refuses 1 in 400 texts
        that were written from such doubles.
        """
        digits, smallest = _FLOATING[self.type]
        plain = (
            f"{self.text} RLIKE '^[+-]?(0[.][0-9]{{1,{digits}}}|[0-9.]{{1,{digits + 1}}})$'"
            f" AND (length({self.text}) <= {digits} OR instr({self.text}, '.') > 0)"
        )
        shortest = significant(f"CAST({self.converted} AS STRING)")
        return (
            f"CASE WHEN {plain} THEN false WHEN NOT {self.text} RLIKE {literal(_NUMBER)} THEN true"
            f" ELSE {significant(self.text)} <> {shortest}"
            f" OR ({self.converted} <> 0 AND abs({self.converted}) < CAST('{smallest}' AS {self.type})) END"
        )


def significant(number: str) -> str:
    """SQL of the significant digits in a number's text, without zeros on either side."""
    return f"regexp_replace({number}, {literal(_NOT_SIGNIFICANT)}, '')"


def decimal(text: str, kind: str) -> str:
    """SQL that converts a number's text to a DECIMAL, null where it is none.

    The embedded engine reads no exponents. They are written out: among a hundred zeros on either side, the dot moves.
    """
    digits = f"concat({_ZEROS}, regexp_replace({text}, '[eE].*$|[^0-9]', ''), {_ZEROS})"
    whole = f"length(regexp_extract({text}, '^[^0-9.]*([0-9]*)', 1))"
    exponent = f"try_cast(regexp_extract({text}, '[eE]([+-]?[0-9]+)', 1) AS INT)"
    shifted = f"overlay({digits} PLACING '.' FROM 101 + {whole} + {exponent} FOR 0)"
    unsigned = f"concat('0', regexp_replace({shifted}, '^0+|0+$', ''))"
    written = f"try_cast(concat(regexp_extract({text}, '^{_SPACE}([+-]?)', 1), {unsigned}) AS {kind})"
    power = f"CASE WHEN {text} RLIKE {literal(_POWER)} THEN {written} END"
    return f"coalesce(try_cast({text} AS {kind}), {power})"


def out_of_range(value: str, kind: str) -> str:
    """SQL that is true for a date or instant outside the years 0001 to 9999, which other programs cannot hold."""
    last = "9999-12-31" if kind == "DATE" else "9999-12-31 23:59:59.999999"
    return f"NOT {value} BETWEEN {kind} '0001-01-01' AND {kind} '{last}'"
