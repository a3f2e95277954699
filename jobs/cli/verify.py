"""The command that verifies a release: where it was made, or with the exchange's public key alone wherever it went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.names import own_name
from jobs.cli.options import AsJson
from jobs.cli.show import document, line, note
from jobs.errors import ExchangeError

if TYPE_CHECKING:
    from jobs.release.did import Keys
    from jobs.release.verify import Verification

CHANGED = 1


def verify(
    product: Annotated[
        str | None,
        typer.Argument(metavar="[PRODUCT[@RELEASE]]", help="Its newest release by default, or a folder's."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL|PROFILE|FOLDER",
            help="As a buyer: download from an exchange, or verify a folder of received files.",
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="With --from: the exchange's did.json or public key.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="With --from URL: your profile for that exchange.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="FOLDER", help="Keep what is downloaded in this new folder.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="URL", help="With a folder: ask this exchange if the release was recalled."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute a release's digests and report every change; exit code 1 if there is any."""
    name, _, number = (product or "").partition("@")
    name = own_name(name)
    if source is None:
        given = {"--key": key, "--profile": profile, "--keep": keep, "--status": status}
        alone = [option for option, value in given.items() if value is not None]
        if alone or not name:
            raise ExchangeError(
                f"{alone[0]} goes with --from" if alone else "which release?",
                expected="PRODUCT[@RELEASE] of this exchange, or --from URL, PROFILE or FOLDER with --key FILE",
            )
        from jobs.release.verify import verify as verify_own

        _report(verify_own(name, number or None), as_json)
        return
    from jobs.release.did import read_keys

    if key is None:
        raise ExchangeError(
            "--from needs --key", expected="--key FILE with the exchange's did.json",
            next_step="get it from the exchange itself, over HTTPS or by hand: not from where the files came from",
        )  # fmt: skip
    keys = read_keys(key)
    if Path(source).is_dir():
        if profile or keep:
            raise ExchangeError("--profile and --keep go with a download", expected="--from FOLDER --key FILE")
        _report(_of_folder(Path(source), keys, name or None, number or None, status), as_json)
        return
    if status:
        raise ExchangeError("--status goes with a folder", expected="no --status: a download asks the same exchange")
    _report(_downloaded(source, profile, keys, name, number, keep), as_json)


def _of_folder(folder: Path, keys: Keys, product: str | None, number: str | None, status: str | None) -> Verification:
    from dataclasses import replace

    from jobs.release.download import ask_status, require_address
    from jobs.release.received import verify_received

    if status:
        require_address(status, "--status")
    found = verify_received(folder, keys, product=product, number=number)
    if status:
        return ask_status(status, found, folder)
    unasked = "whether it was recalled since. Next: --status URL asks the exchange"
    return replace(found, skipped=(*found.skipped, unasked))


def _downloaded(
    source: str, profile: Path | None, keys: Keys, product: str, number: str, keep: Path | None
) -> Verification:
    from jobs.release.download import Profile, ask_status, read_profile, require_address, verify_download
    from jobs.release.manifest import parse_number
    from jobs.release.wire import origin_of

    # The official client's way to name a table: profile#share.schema.table.
    file, _, table = source.partition("#")
    name = product or own_name(table.rpartition(".")[2])
    if not name:
        raise ExchangeError("which product?", expected="exchange verify PRODUCT[@RELEASE] --from … --key …")
    if number and not parse_number(number):
        raise ExchangeError(f"{number[:64]} is no release's number", expected="one like 1.2.0")
    access: Profile
    if "://" in file:
        require_address(file, "--from")
        if profile is None:
            raise ExchangeError("--from URL needs --profile", expected="--profile FILE with your token for it")
        access = read_profile(profile)
        if origin_of(access.endpoint) != origin_of(file):
            raise ExchangeError(
                "the profile is for another exchange", where=str(profile), expected=origin_of(file),
                next_step="its token is never sent anywhere else; give the profile that this exchange handed out",
            )  # fmt: skip
    else:
        access = read_profile(Path(file))
    with _folder(keep) as folder:
        found = verify_download(access, keys, folder, name, number or None)
        return ask_status(access.endpoint, found, folder, newest=not number)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder: the given one, which must be new, or a temporary one."""
    from tempfile import TemporaryDirectory

    if keep is None:
        with TemporaryDirectory(prefix="exchange-verify-") as temporary:
            yield Path(temporary)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        is_empty = next(keep.iterdir(), None) is None
    except OSError as error:
        raise ExchangeError(f"cannot be made ({error.strerror})", where=str(keep), expected="a new folder") from None
    if not is_empty:
        raise ExchangeError("the folder is not empty", where=str(keep), expected="a new folder")
    yield keep


def _report(result: Verification, as_json: bool) -> None:
    if as_json:
        document({**asdict(result), "ok": result.ok})
    else:
        for finding in result.findings:
            line(f"changed: {finding}")
        for skipped in result.skipped:
            note(f"not verified: {skipped}")
        count = len(result.findings)
        verdict = "is exactly as it was released" if result.ok else f"is NOT as it was released: {count} findings"
        scope = f"{result.files} files, {result.bytes:,} bytes, {result.rows:,} rows, "
        scope += f"{result.landed} landed files, " * bool(result.landed)
        line(f"{result.product}@{result.number} {verdict} ({scope}certificate and manifest)")
    if not result.ok:
        raise typer.Exit(CHANGED)
