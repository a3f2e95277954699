"""The registry's database: its schema, its migrations, and concurrent processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine, inspect, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

import jobs.registry.database as database
from jobs.errors import ExchangeError, Locked, Tampered
from jobs.registry import backup, engine, identity, reading, transaction
from jobs.registry.landings import add_landing
from jobs.registry.models import Base, Landing, Participant, Release, Run
from jobs.registry.refusals import refused_until
from jobs.settings import settings
from tests.exchange.postgres import new_schema, served

pytestmark = pytest.mark.usefixtures("home")

AN_INSTANT = datetime(2026, 3, 29, 1, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """URL of a database in a real PostgreSQL."""
    with served(tmp_path_factory.mktemp("postgres")) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, home: Path) -> str:
    """The registry in an empty database of each kind in turn."""
    del home  # SQLite keeps its file there.
    if request.param == "postgresql":
        schema = f"test_{secrets.token_hex(4)}"
        monkeypatch.setenv("EXCHANGE_DATABASE_URL", new_schema(request.getfixturevalue("postgres"), schema))
    return request.param


def _participant(name: str) -> Participant:
    return Participant(name=name, role="buyer", created_at=AN_INSTANT)


def test_a_migrated_database_has_what_the_models_say(either_database: str) -> None:
    with engine().connect() as connection:
        assert connection.dialect.name == either_database
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_is_made_as_the_models_say() -> None:
    with engine().connect() as connection:
        migrated = _definitions(connection)
    fresh = create_engine("sqlite://")
    Base.metadata.create_all(fresh)
    with fresh.connect() as connection:
        # Compare the DDL text, which includes checks, names and nullability.
        assert migrated == _definitions(connection)


def _definitions(connection) -> dict[str, list[str]]:
    rows = connection.execute(
        text("select name, sql from sqlite_master where sql is not null and name not like '%alembic%'")
    )
    # Constraints may be in any order, and SQLite quotes the name of a table that a migration copied.
    definitions = {name: sql.replace('"', "") for name, sql in rows if not name.startswith("sqlite_")}
    return {name: sorted(re.split(r"[\s,]+", sql)) for name, sql in definitions.items()}


@pytest.mark.usefixtures("either_database")
def test_downgrading_leaves_nothing_and_upgrading_again_works() -> None:
    bind = engine()
    database.migrate(bind, "base")
    assert set(inspect(bind).get_table_names()) <= {"alembic_version"}
    assert database.revision(bind) is None
    database.migrate(bind)
    assert database.revision(bind) == database.HEAD
    assert set(Base.metadata.tables) <= set(inspect(bind).get_table_names())


@pytest.mark.usefixtures("either_database")
def test_refused_batches_are_migrated_from_recorded_runs() -> None:
    bind = engine()
    database.migrate(bind, "0002")
    run_input = {"landing_id": 7, "base": 3, "made_by": "d" * 64}
    with transaction() as session:
        for name, step, status, input_ in (
            ("gone_by", "silver", "failed", {**run_input, "landing_id": 5, "refused": True}),
            ("gone_by", "silver", "failed", {**run_input, "refused": True}),
            ("gone_by", "silver", "failed", {**run_input, "landing_id": 9}),
            ("empty", "silver", "unchanged", {**run_input, "base": None, "refused": True}),
            ("fine", "silver", "succeeded", run_input),
            ("never_began", "silver", "failed", None),
        ):
            run = Run(run_id="r", step=step, kind="source", name=name, status=status, input=input_)
            run.logical_date = run.started_at = AN_INSTANT
            session.add(run)
    database.migrate(bind)
    assert refused_until("gone_by", 3, "d" * 64) == 7
    assert refused_until("gone_by", 4, "d" * 64) == 0, "another checked version may have use for those rows"
    assert refused_until("gone_by", 3, "e" * 64) == 0, "and so may other declarations"
    assert refused_until("empty", None, "d" * 64) == 7
    assert refused_until("fine", 3, "d" * 64) == refused_until("never_began", 3, "d" * 64) == 0


@pytest.mark.usefixtures("either_database")
def test_files_recorded_before_arrivals_were_counted_are_first_arrivals() -> None:
    bind = engine()
    database.migrate(bind, "0005")
    earlier = {"source": "s", "path": "p", "file_name": "f", "size": 1, "run_id": "r"}
    with bind.begin() as connection:
        for sha256 in ("a", "b", "c"):
            columns = earlier | {"sha256": sha256, "fetched_at": AN_INSTANT, "logical_date": AN_INSTANT}
            names = ", ".join(columns)
            marks = ", ".join(f":{name}" for name in columns)
            connection.execute(text(f"insert into landings ({names}) values ({marks})"), columns)
        connection.execute(text("delete from landings where sha256 = 'c'"))
    database.migrate(bind)
    again = Landing(**earlier, sha256="a", fetched_at=AN_INSTANT, logical_date=AN_INSTANT)
    add_landing(again)
    with reading() as session:
        assert [(x.id, x.tag) for x in session.scalars(select(Landing).order_by(Landing.id))] == [
            (1, "a"), (2, "b"), (4, "a.2"),
        ]  # fmt: skip
    database.migrate(bind, "0005")
    with bind.connect() as connection:
        assert connection.execute(text("select id from landings order by id")).scalars().all() == [1, 2]


def test_the_head_named_in_the_code_is_the_newest_revision() -> None:
    scripts = ScriptDirectory(str(Path(database.__file__).parent / "migrations"))
    assert scripts.get_current_head() == database.HEAD


def test_the_tables_can_be_made_in_postgresql() -> None:
    for table in Base.metadata.sorted_tables:
        ddl = str(CreateTable(table).compile(dialect=postgresql.dialect()))
        assert "TIMESTAMP WITHOUT" not in ddl
        for index in table.indexes:
            str(CreateIndex(index).compile(dialect=postgresql.dialect()))
    assert "BIGSERIAL" in str(CreateTable(Landing.__table__).compile(dialect=postgresql.dialect()))


def test_importing_the_registry_is_light() -> None:
    heavy = (
        "import sys, jobs.registry, jobs.registry.models; print([m for m in ('pandas', 'pyarrow', 'pyspark', "
        "'alembic', 'deltalake', 'airflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_instants_come_back_aware_and_in_utc() -> None:
    elsewhere = AN_INSTANT.astimezone(timezone(timedelta(hours=8)))
    with transaction() as session:
        session.add(Participant(name="a", role="buyer", created_at=elsewhere))
    with reading() as session:
        row = session.scalars(select(Participant)).one()
        assert session.scalar(select(Participant.id).where(Participant.created_at <= elsewhere)) == row.id
    assert row.created_at == AN_INSTANT
    assert row.created_at.tzinfo is UTC


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(Exception, match="without a time zone"), transaction() as session:
        session.add(Participant(name="a", role="buyer", created_at=datetime(2026, 1, 1)))
        session.flush()


def test_a_failed_transaction_is_rolled_back() -> None:
    with pytest.raises(KeyError), transaction() as session:
        session.add(_participant("a"))
        session.flush()
        raise KeyError
    with reading() as session:
        assert session.scalars(select(Participant)).all() == []


def test_a_nested_transaction_is_refused() -> None:
    with transaction(), pytest.raises(RuntimeError, match="within another"), transaction():
        pass
    with transaction() as session:
        session.add(_participant("a"))


def test_a_reader_neither_waits_for_a_writer_nor_writes() -> None:
    with transaction() as session:
        session.add(_participant("a"))
    with transaction() as writer:
        writer.add(_participant("b"))
        writer.flush()
        with reading() as session:
            assert [p.name for p in session.scalars(select(Participant))] == ["a"]
    with reading() as session:
        session.scalars(select(Participant)).first().name = "changed"
    with reading() as session:
        assert session.scalars(select(Participant.name).order_by(Participant.name)).all() == ["a", "b"]


def test_a_release_cannot_be_changed_or_deleted_but_can_be_recalled() -> None:
    with transaction() as session:
        release = Release(
            product="p",
            major=1,
            minor=0,
            patch=0,
            delta_version=0,
            manifest_sha256="0" * 64,
            manifest={"files": []},
            credential="x",
            rows=1,
            bytes=1,
            grade="A",
            licence="CC0-1.0",
            released_at=AN_INSTANT,
        )
        session.add(release)
    assert (release.status, release.number) == ("published", "1.0.0")
    with pytest.raises(Tampered, match="rows"), transaction() as session:
        session.get_one(Release, release.id).rows = 2
    with pytest.raises(Tampered, match="never deleted"), transaction() as session:
        session.delete(session.get_one(Release, release.id))
    with transaction() as session:
        session.get_one(Release, release.id).status = "recalled"


def test_the_id_of_a_landing_is_never_reused() -> None:
    def landing(sha256: str) -> Landing:
        return Landing(
            source="s",
            sha256=sha256,
            path="p",
            file_name="f",
            size=1,
            fetched_at=AN_INSTANT,
            logical_date=AN_INSTANT,
            run_id="r",
        )

    with transaction() as session:
        session.add(landing("a"))
    with transaction() as session:
        session.delete(session.scalars(select(Landing)).one())
    with transaction() as session:
        session.add(landing("b"))
        session.flush()
        assert session.scalars(select(Landing.id)).one() == 2


@pytest.mark.parametrize(
    "url", ["nonsense", "oracle://u:secret@h/d", "nosuch://u:secret@h/d", "sqlite://", "sqlite:///:memory:"]
)
def test_an_unusable_database_url_is_explained(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", url)
    with pytest.raises(ExchangeError, match="EXCHANGE_DATABASE_URL") as caught:
        engine()
    assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_opened_is_explained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "rubbish.db").write_bytes(b"this is no database at all" * 100)
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", f"sqlite:///{home / 'rubbish.db'}")
    with pytest.raises(ExchangeError, match="not a database"):
        engine()
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", f"sqlite:///{home}")
    with pytest.raises(ExchangeError, match="cannot be used"):
        engine()
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", f"sqlite:///{home / 'rubbish.db' / 'inside.db'}")
    with pytest.raises(ExchangeError, match="folder cannot be created"):
        engine()


def test_a_database_of_a_newer_version_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine().begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    engine().dispose()
    monkeypatch.setattr(database, "_engines", {})
    with pytest.raises(ExchangeError, match="newer than this program"):
        engine()


def test_a_lock_that_is_never_released_is_explained() -> None:
    other = create_engine(engine().url)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(Locked, match="another process"), transaction(patience=0) as session:
            session.scalars(select(Participant)).all()


def _count_up(rounds: int) -> None:
    for _ in range(rounds):
        with transaction() as session:
            run = session.scalars(select(Run)).one()
            run.rows_in = (run.rows_in or 0) + 1


def _first_use(_index: int) -> int:
    with transaction() as session:
        session.add(_participant(f"p{os.getpid()}"))
    return os.getpid()


def test_concurrent_read_and_write_transactions_lose_no_update() -> None:
    with transaction() as session:
        session.add(
            Run(
                run_id="r",
                step="bronze",
                kind="source",
                name="s",
                logical_date=AN_INSTANT,
                started_at=AN_INSTANT,
                status="running",
            )
        )
    # Forked while this process has connections open, as Airflow forks its tasks.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count_up, args=(25,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    _count_up(25)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with reading() as session:
        assert session.scalars(select(Run.rows_in)).one() == 125


def test_concurrent_first_uses_migrate_the_database_once() -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(pool.map(_first_use, range(3), chunksize=1)) == 3
    with reading() as session:
        assert session.scalars(select(Participant)).all()


def test_a_fork_does_not_share_connections() -> None:
    mine = engine()
    with reading() as session:
        session.execute(text("select 1"))
    assert mine.pool.checkedin() == 1
    child = os.fork()
    if child == 0:
        try:
            fine = engine() is not mine and _first_use(0) == os.getpid()
        finally:
            os._exit(0 if fine else 1)
    assert mine.pool.checkedin() == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with reading() as session:
        assert len(session.scalars(select(Participant)).all()) == 1


@pytest.mark.usefixtures("either_database")
def test_a_registry_in_either_database_is_copied_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with transaction() as session:
        session.add(_participant("kept"))
    copy = backup.backup(tmp_path / "copy.db")
    with transaction() as session:
        session.add(_participant("later"))
    known = identity.remembered()
    if engine().dialect.name == "postgresql":
        with pytest.raises(ExchangeError, match="the registry has 2 participants"):
            backup.restore(copy)
        swapped = new_schema(request.getfixturevalue("postgres"), f"test_{secrets.token_hex(4)}")
        (settings().releases / "rates" / "1.0.0").mkdir(parents=True)
        monkeypatch.setenv("EXCHANGE_DATABASE_URL", swapped)
        with pytest.raises(ExchangeError, match=r"the registry is empty, but the release rates@1\.0\.0"):
            engine()
    assert backup.restore(copy).records == 1
    with transaction() as session:
        # Numbered after the restored row.
        session.add(_participant("next"))
    with reading() as session:
        assert [p.name for p in session.scalars(select(Participant).order_by(Participant.id))] == ["kept", "next"]
    assert identity.remembered() == known
