"""The registry's `checks`: the results of the expectations for each Delta version that they ran on."""

from __future__ import annotations

from sqlalchemy import select

from jobs.registry.database import reading, transaction
from jobs.registry.models import Check, Pointer


def latest_checks(table: str, limit: int) -> list[Check]:
    """A table's checks, newest first, at most ``limit``."""
    newest = select(Check).where(Check.table_name == table).order_by(Check.id.desc()).limit(limit)
    with reading() as session:
        return list(session.scalars(newest))


def grades() -> dict[str, str]:
    """The grade of each table's checked version, by table name; tables whose check is not recorded are left out."""
    checked = select(Pointer.table_name, Check.grade).join(Check, Pointer.check_id == Check.id)
    with reading() as session:
        return dict(session.execute(checked).tuples().all())


def add_check(check: Check) -> None:
    """Record a check that moves no pointer."""
    with transaction() as session:
        session.add(check)


def check_with_result(table: str, version: int, result_sha256: str) -> Check | None:
    """The check of a table's version that has this evidence; None if none is recorded."""
    same = (Check.table_name == table, Check.delta_version == version, Check.result_sha256 == result_sha256)
    with reading() as session:
        return session.scalars(select(Check).where(*same).order_by(Check.id).limit(1)).first()
