"""Runs the whole catalogue through a real Airflow, once (`run`) or until Ctrl-C (`up`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from jobs.airflow.client import Client
from jobs.airflow.configuration import Pace
from jobs.airflow.credentials import USER, password_file
from jobs.airflow.display import Display, print_drafts, print_failures, print_outcome, print_ways_to_read
from jobs.airflow.mistakes import find_mistakes
from jobs.airflow.outcome import drafts_of, outcomes_of
from jobs.airflow.round import Round
from jobs.airflow.services import Services
from jobs.declared.catalog import load_catalog
from jobs.errors import ExchangeError, Locked
from jobs.exchange.grants import PREFIX
from jobs.operate.doctor import require_working
from jobs.operate.processes import is_free
from jobs.operate.signals import ended_by_signals, undisturbed
from jobs.registry import locks
from jobs.registry.releases import newest_published
from jobs.settings import settings

FAILED = 1
INTERRUPTED = 130

# A user waits for `run`: tasks follow each other immediately, on any free port, so that two runs never collide. `up`
# stays: it leaves the machine quiet and keeps its address.
_HURRIED = Pace(port=0, idle_seconds=0.2, reread_seconds=3600)
_PATIENT = Pace(port=8080, idle_seconds=1.0, reread_seconds=30)


def run() -> int:
    """Load every source, release every product with new inputs, print the result, stop everything.

    Returns:
        0 if all went well; 1 if something failed, with one line for each failure; 130 after Ctrl-C.
    """
    return _guarded(lambda console, services: _one_round(console, services, _HURRIED))


def up() -> int:
    """Do what `run` does, then keep Airflow on its schedules and the sharing server running until Ctrl-C.

    Returns:
        0 after Ctrl-C; 1 if a service cannot start or ends by itself.
    """
    return _guarded(_stay)


def _guarded(work: Callable[[Console, Services], int]) -> int:
    console = _console()
    services = Services()
    try:
        with ended_by_signals(), _only_runner():
            require_working()
            try:
                return work(console, services)
            finally:
                with undisturbed():
                    services.stop()
    except ExchangeError as error:
        print_failures(console, [str(error)])
        return FAILED
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been stopped", highlight=False)
        return INTERRUPTED


def _one_round(console: Console, services: Services, pace: Pace) -> int:
    catalog = load_catalog()
    if not catalog.sources and not catalog.mistakes:
        raise ExchangeError(
            "no source is declared",
            where=str(settings().catalogue / "dags" / "sources"),
            next_step="exchange source new writes a declaration from a sample of the data",
        )
    before = newest_published()
    with Display(console) as display:
        display.phase("starting Airflow")
        services.begin(pace)
        client = Client(services.address, USER, services.credentials.password)
        current = Round(services, client, catalog, display)
        try:
            current.go()
        except ExchangeError as error:
            current.failures.append(str(error))
    drafts = drafts_of(catalog)
    outcomes = outcomes_of(catalog, before, current.subjects, drafts)
    print_outcome(console, outcomes)
    print_drafts(console, drafts)
    readable = next((outcome.product for outcome in outcomes if outcome.rows is not None), None)
    if readable:
        print_ways_to_read(console, readable, *_programs())
    failures = [str(mistake) for mistake in find_mistakes(catalog)]
    failures += [line for line in current.collect_failures() if not any(mistake in line for mistake in failures)]
    print_failures(console, failures)
    return FAILED if failures else 0


def _stay(console: Console, services: Services) -> int:
    here = settings()
    if not is_free(here.share_port):
        # The server could take another port, but the profiles that buyers already have name this one.
        raise ExchangeError(
            f"port {here.share_port} of the sharing server is in use",
            where="EXCHANGE_SHARE_PORT",
            next_step="stop what uses it, or set another port there",
        )
    _one_round(console, services, _PATIENT)
    services.start("sharing-server", [sys.executable, "-m", "jobs.cli", "serve"], {})
    # Only the user who started this sees the terminal; any other output may end up in a log.
    secret = services.credentials.password if console.is_terminal else f"the one in {password_file(services.home)}"
    for line in (
        f"Airflow         {services.address}  user {USER}, password {secret}",
        f"Delta Sharing   http://{here.share_host}:{here.share_port}{PREFIX}  exchange grant <product> --to <buyer>",
        f"logs            {services.logs}",
        "Ctrl-C stops Airflow and the sharing server.",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)
    try:
        while True:
            services.check()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("stopping", highlight=False)
        return 0


def _console() -> Console:
    # Without a terminal's width, lines are not wrapped.
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _programs() -> tuple[str, str]:
    """Paths of Python and of the console script, relative to the working directory if they lie below it."""
    folder = Path(sys.executable).parent
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    return str(folder / "python"), str(folder / "exchange")


@contextmanager
def _only_runner() -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.hold("runner", shared=False))
        except Locked as error:
            raise Locked(
                f"another `exchange run` or `exchange up` is running here: {error.what}",
                where=str(settings().home),
                next_step="wait for it or stop it, or set EXCHANGE_HOME to another folder",
            ) from None
        yield
