"""Runs a PostgreSQL of our own on the loopback interface: its folder, its roles, its databases."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from jobs.errors import ExchangeError
from jobs.operate.cluster.credentials import ServiceCredentials
from jobs.operate.cluster.engine import Command
from jobs.operate.cluster.state import HOST
from jobs.operate.processes import group_of, last_words, open_log, write_private
from jobs.settings import settings

# A role of the same name owns each, and has no rights elsewhere.
DATABASES = ("exchange", "airflow")


@dataclass(frozen=True)
class Place:
    """The database's folder as its user reaches it.

    PostgreSQL refuses to run as root. If root starts it, it runs as another user, who cannot enter the folders above
    (root's home or temporary folder): an open descriptor gives access to this folder and to nothing else.

    Attributes:
        path: the folder, by a name that works for that user.
        user: that user; None for the user of this process.
        descriptors: the descriptors that a process must inherit for the name to work.
    """

    path: str
    user: str | None
    descriptors: tuple[int, ...]


def find_postgres(packaged: Path = Path("/usr/lib/postgresql")) -> Path:
    """The folder of PostgreSQL's programs: from PATH, else the newest version that Debian installed.

    Raises:
        ExchangeError: it is not installed.
    """
    initdb = shutil.which("initdb")
    if initdb and (Path(initdb).resolve().parent / "postgres").exists():
        return Path(initdb).resolve().parent
    versions = [file.parent for file in packaged.glob("*/bin/initdb")]
    if versions:
        return max(versions, key=lambda folder: float(folder.parent.name))
    raise ExchangeError(
        "PostgreSQL is not installed",
        where=f"PATH, {packaged}",
        expected="its programs initdb and postgres",
        next_step="install it (Debian: apt-get install postgresql; Red Hat: dnf install postgresql-server)",
    )


def database_url(port: int, database: str) -> str:
    """SQLAlchemy address of a database; the password is in the file that it names."""
    address = URL.create(
        "postgresql+psycopg", database, host=HOST, port=port, database=database, query={"passfile": str(passfile())}
    )
    return address.render_as_string()


def passfile() -> Path:
    """Passwords of the databases' own roles, in the form that PostgreSQL's clients read."""
    return settings().cluster / "pgpass"


@contextmanager
def place() -> Iterator[Place]:
    """The folder of the database, created if it is missing."""
    folder = settings().cluster / "database"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if os.geteuid() != 0:
        yield Place(str(folder), None, ())
        return
    account = _unprivileged()
    os.chown(folder, account.pw_uid, account.pw_gid)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Place(f"/proc/self/fd/{descriptor}", account.pw_name, (descriptor,))
    finally:
        os.close(descriptor)


def make_database(at: Place, credentials: ServiceCredentials, log: Path) -> None:
    """Initialise the folder at first use: one superuser with a password, and no login without one.

    Raises:
        ExchangeError: PostgreSQL's `initdb` refused.
    """
    folder = settings().cluster / "database"
    if (folder / "data" / "PG_VERSION").exists() and not (folder / "password").exists():
        return
    # Left by a start that was killed.
    shutil.rmtree(folder / "data", ignore_errors=True)
    write_private(folder / "password", credentials.database["postgres"] + "\n")
    if at.user:
        shutil.chown(folder / "password", at.user)
    words = [str(find_postgres() / "initdb"), "-D", f"{at.path}/data", "-U", "postgres", "-A", "scram-sha-256"]
    words += [f"--pwfile={at.path}/password", "-E", "UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
    with open_log(log) as output:
        ended = subprocess.run(  # noqa: S603 - a program and arguments of our own
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            user=at.user,
            group=group_of(at.user),
            extra_groups=[] if at.user else None,
            pass_fds=at.descriptors,
            check=False,
        )
    if ended.returncode:
        raise ExchangeError(
            f"the database could not be created: {last_words(log)}",
            where=str(log),
            next_step="read that log, then exchange cluster up again",
        )
    (folder / "password").unlink()


def database(at: Place, port: int) -> Command:
    """The server; its working folder must be ``/``, as its user may not enter ours."""
    words = [str(find_postgres() / "postgres"), "-D", f"{at.path}/data", "-p", str(port)]
    words += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    return Command(words, {})


def prepare_database(port: int, credentials: ServiceCredentials, check: Callable[[], None], seconds: float) -> None:
    """Wait until the server accepts connections, make roles and databases, and write `passfile`.

    Args:
        check: raises if the server's process has ended.

    Raises:
        ExchangeError: it does not accept them in time.
    """
    import psycopg
    from psycopg import sql

    deadline = time.monotonic() + seconds
    while True:
        check()
        try:
            opened = psycopg.connect(
                host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5,
                password=credentials.database["postgres"],
            )  # fmt: skip
            break
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise ExchangeError(
                    f"the database does not accept connections after {seconds:.0f} seconds ({error})",
                    where=f"127.0.0.1:{port}",
                    next_step="exchange cluster logs database",
                ) from None
        time.sleep(0.1)
    with opened as server:
        for name in DATABASES:
            # Only the hash is sent, so that no log of the server can hold the password.
            password = credentials.database[name].encode()
            hashed = server.pgconn.encrypt_password(password, name.encode(), b"scram-sha-256").decode()
            role = sql.Identifier(name)
            if not server.execute("select 1 from pg_roles where rolname = %s", [name]).fetchone():
                server.execute(sql.SQL("create role {}").format(role))
            server.execute(sql.SQL("alter role {} login password {}").format(role, sql.Literal(hashed)))
            if not server.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
                server.execute(sql.SQL("create database {0} owner {0}").format(role))
                server.execute(sql.SQL("revoke all on database {} from public").format(role))
    lines = [f"127.0.0.1:{port}:{name}:{name}:{credentials.database[name]}\n" for name in DATABASES]
    write_private(passfile(), "".join(lines))


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ExchangeError(
        "PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' to run it as",
        next_step="add one of them, or start the cluster as another user",
    )
