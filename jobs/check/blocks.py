"""Tells which tables are blocked: their newest version failed its expectations, and nothing was built since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from jobs.declared.contract import load_contract
from jobs.lake.pointers import pointers
from jobs.registry.checks import standing_failures
from jobs.registry.models import Check
from jobs.registry.runs import was_built_since


@dataclass(frozen=True)
class Block:
    """Why readers of a table still see an older version.

    Attributes:
        version: the newest version that failed; it was taken back.
        since: the first failure after the last check that passed.
        errors: the rules of severity error that failed last, each in one line.
    """

    table: str
    version: int
    since: datetime
    errors: tuple[str, ...]

    def __str__(self) -> str:
        rules = "; ".join(self.errors) or "its expectations failed"
        return f"blocked since {self.since:%Y-%m-%d %H:%M} UTC, version {self.version} failed: {rules}"

    @property
    def rules(self) -> str:
        """Names of the failed rules."""
        return ", ".join(error.split(" ", 1)[0] for error in self.errors)


def blocked(tables: Collection[str]) -> dict[str, Block]:
    """Those of these tables that are blocked, by name."""
    checked = {p.table_name: p.delta_version for p in pointers()}
    return {
        table: _block(last, since)
        for table, (last, since) in standing_failures(tables).items()
        if not was_built_since(table, last.checked_at)
        and (last.delta_version != checked.get(table) or _is_current_contract(last))
    }


def _is_current_contract(check: Check) -> bool:
    # A failure of the checked version itself says nothing once the contract that it failed has been changed back.
    return load_contract(check.table_name).digest == check.contract_digest


def _block(last: Check, since: datetime) -> Block:
    failed = (last.scope or {}).get("failed") or []
    return Block(last.table_name, last.delta_version, since, tuple(f for f in failed if " (error: " in f))
