"""The registry's `checks`: the results of the expectations for each Delta version that they ran on."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, select

from jobs.registry.database import reading, transaction
from jobs.registry.models import Check, Pointer


def latest_checks(table: str, limit: int) -> list[Check]:
    """A table's checks, newest first, at most ``limit``."""
    newest = select(Check).where(Check.table_name == table).order_by(Check.id.desc()).limit(limit)
    with reading() as session:
        return list(session.scalars(newest))


def standing_failures(tables: Collection[str]) -> dict[str, tuple[Check, datetime]]:
    """Of each of these tables whose newest check failed: that check, and when the first failed since one passed."""
    passed = (
        select(Check.table_name, func.max(Check.id).label("id"))
        .where(Check.passed, Check.table_name.in_(tables))
        .group_by(Check.table_name)
        .subquery()
    )
    failed = (
        select(Check.table_name, func.max(Check.id), func.min(Check.checked_at))
        .outerjoin(passed, passed.c.table_name == Check.table_name)
        .where(Check.table_name.in_(tables), Check.id > func.coalesce(passed.c.id, 0))
        .group_by(Check.table_name)
    )
    with reading() as session:
        return {
            table: (session.get_one(Check, newest), since) for table, newest, since in session.execute(failed).tuples()
        }


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
