"""Downloads a release as its buyer reads it: documents and files by the sharing protocol, into a folder to verify."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from jobs.errors import ExchangeError, NotFound, Unavailable, disk_full
from jobs.release.did import Keys
from jobs.release.inspection import MISSING, Inspection
from jobs.release.manifest import CONTRACT_FILE, CREDENTIAL_FILE, EVIDENCE_FILE, MANIFEST_FILE, Manifest, digest
from jobs.release.received import LONGEST, certified, certified_manifest, verify_received, with_findings
from jobs.release.verify import Verification
from jobs.release.wire import Refused, Request, Wire, origin_of

_DOCUMENTS = {
    CREDENTIAL_FILE: "certificate", MANIFEST_FILE: "manifest", CONTRACT_FILE: "contract", EVIDENCE_FILE: "evidence",
}  # fmt: skip
_AT_ONCE = 4
# Statistics of two thousand columns take a tenth of it.
_LONGEST_LINE = 8 << 20
_EXTRA_NAMED = 20
# Names an id of a file by the digest of its path; see the protocol's capabilities.
_READING = (
    ("delta-sharing-capabilities", "responseformat=delta,parquet;readerfeatures=timestampntz"),
    ("fileidhash", "delta"),
)


@dataclass(frozen=True)
class Profile:
    """A buyer's access to an exchange: its Delta Sharing endpoint and a token."""

    endpoint: str
    token: str = field(repr=False)


def read_profile(file: Path) -> Profile:
    """Read a profile as the exchange hands it out.

    Raises:
        NotFound: there is no such file.
        ExchangeError: it is no profile.
    """
    expected = "a Delta Sharing profile: JSON with endpoint and bearerToken"
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(1 << 20))
        profile = Profile(str(found["endpoint"]).rstrip("/"), str(found["bearerToken"]))
    except FileNotFoundError:
        raise NotFound("the profile is missing", where=str(file), expected=expected) from None
    except OSError as error:
        raise ExchangeError(f"cannot be read ({error.strerror})", where=str(file), expected=expected) from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ExchangeError("not a profile", where=str(file), expected=expected) from None
    require_address(profile.endpoint, str(file))
    if not profile.token.isascii() or not profile.token.isprintable():
        raise ExchangeError("the profile's token is none", where=str(file), expected=expected)
    return profile


def require_address(address: str, where: str) -> None:
    """Require the address of a server.

    Raises:
        ExchangeError: it is none.
    """
    if not origin_of(address):
        raise ExchangeError(
            "not an address of an exchange", where=where, expected="one like https://share.example.com/delta-sharing"
        )


def verify_download(profile: Profile, keys: Keys, folder: Path, product: str, number: str | None) -> Verification:
    """Download a release into an empty folder, and compare every byte with its certificate.

    Data is asked for only once a valid certificate vouches for its manifest, and no more of it than that lists.

    Args:
        profile: the buyer's.
        keys: the exchange's, from a source that the buyer trusts.
        folder: where the files are left.
        product: the product's name.
        number: the release; the newest if None.

    Raises:
        Unavailable: the server cannot be reached.
        ExchangeError: the disk is full.
    """
    return asyncio.run(_Download(profile, keys, folder, product, number).verify())


def ask_status(endpoint: str, verification: Verification, folder: Path, *, newest: bool = False) -> Verification:
    """Ask the exchange how a verified release stands now, with what its certificate states.

    The answer is as good as the connection: HTTPS proves who gave it.

    Args:
        endpoint: the exchange's Delta Sharing endpoint.
        verification: of the folder.
        folder: has the manifest.
        newest: whether a release that another has superseded is a finding.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return verification
    work = Inspection(verification.product, verification.number, folder)
    sha256 = digest((folder / MANIFEST_FILE).read_bytes())
    place = f"status/{quote(work.product)}/{quote(work.number)}/{sha256}"
    asyncio.run(_status(work, endpoint, place, newest))
    return with_findings(verification, work)


async def _status(work: Inspection, endpoint: str, place: str, newest: bool) -> None:
    async with Wire.open(endpoint) as wire:
        try:
            found = await wire.read_json(Request(f"{urlsplit(endpoint).path.rstrip('/')}/{place}", 64 << 10))
        except Refused as refused:
            work.record(refused.what, refused.where, refused.expected, refused.found)
            return
        except Unavailable as error:
            work.record("the exchange could not be asked for the status", endpoint, "certified", error.what)
            return
    if found.get("status") != "certified":
        since = f"{found.get('status')} at {found.get('recalledAt')}: {found.get('reason')}"
        work.record("the release was recalled", endpoint, "certified", since)
    if newest and found.get("superseded"):
        work.record("not the newest release", endpoint, "the newest", f"{work.number}, which another has superseded")


class _Download:
    """One download."""

    def __init__(self, profile: Profile, keys: Keys, folder: Path, product: str, number: str | None) -> None:
        self._base = urlsplit(profile.endpoint).path.rstrip("/")
        self._table = f"{self._base}/shares/exchange/schemas/products/tables/{quote(product, safe='')}"
        self._bearer = (("Authorization", f"Bearer {profile.token}"),)
        self._profile, self._keys, self._folder = profile, keys, folder
        self._number = number
        self._work = Inspection(product, number or "", folder)
        self._unloaded: set[str] = set()

    async def verify(self) -> Verification:
        """Download and verify; what the server did wrong comes first."""
        work = self._work
        async with Wire.open(self._profile.endpoint) as wire:
            manifest = await self._documents(wire)
            if manifest is not None:
                self._unloaded = {file.path for file in manifest.files}
                with _recorded(work):
                    await self._files(wire, manifest)
        if not (self._folder / CREDENTIAL_FILE).is_file():
            work.skipped.append("everything: the exchange gave no certificate")
            return Verification(work.product, work.number, tuple(work.findings), skipped=tuple(work.skipped))
        verification = verify_received(
            self._folder, self._keys, product=work.product, number=self._number, unloaded=self._unloaded
        )
        return with_findings(verification, work)

    async def _documents(self, wire: Wire) -> Manifest | None:
        """Load the documents, one after the other as long as all is well; what is wrong with them is found later."""
        number, manifest = self._number or "latest", None
        for name, kind in _DOCUMENTS.items():
            path = f"{self._table}/releases/{quote(number, safe='')}/{kind}"
            with _recorded(self._work):
                await self._save(wire, Request(path, LONGEST[name], headers=self._bearer), name)
            if self._work.findings:
                return None
            so_far = Inspection(self._work.product, self._number or "", self._folder)
            if name == CREDENTIAL_FILE:
                if certified(so_far, self._keys) is None:
                    return None
                # The newest may be another by the next request.
                number = so_far.number
            elif name == MANIFEST_FILE:
                manifest = certified_manifest(so_far, self._keys)
                if manifest is None:
                    return None
        return manifest

    async def _files(self, wire: Wire, manifest: Manifest) -> None:
        addresses = await self._addresses(wire, manifest)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def load(path: str, size: int, address: str) -> None:
            async with slots:
                with _recorded(self._work, path):
                    await self._save(wire, Request(address, size), path)
                    self._unloaded.discard(path)

        files = [(file.path, file.size, addresses[file.path]) for file in manifest.files if file.path in addresses]
        await asyncio.gather(*(load(*file) for file in files))

    async def _addresses(self, wire: Wire, manifest: Manifest) -> dict[str, str]:
        """Where the server has each file of the manifest; what it lists beside or lacks is recorded."""
        by_id = {hashlib.sha256(file.path.encode()).hexdigest(): file.path for file in manifest.files}
        found: dict[str, str] = {}
        extra = 0
        place = f"{self._table}/query"
        request = Request(
            place, (16 << 20) + len(by_id) * (1 << 20), {"version": manifest.table.delta_version},
            (*self._bearer, *_READING),
        )  # fmt: skip
        lines = _Lines(place, most=2 * len(by_id) + 1000)
        await wire.receive(request, lines.take, lines.clear)
        lines.take(b"\n")
        for name, address in lines.files:
            path = by_id.get(name)
            if path is None or path in found:
                extra += 1
                if extra <= _EXTRA_NAMED:
                    self._work.record("the server lists a file that was not released", place, MISSING, name)
            elif address is None or origin_of(address) != wire.origin:
                elsewhere = origin_of(address or "") or "no address"
                self._work.record("the server names a file at another address", path, wire.origin, elsewhere)
            else:
                parts = urlsplit(address)
                found[path] = f"{parts.path}?{parts.query}" if parts.query else parts.path
        if extra > _EXTRA_NAMED:
            self._work.record("the server lists files that were not released", place, MISSING, f"{extra} files")
        told = {finding.where for finding in self._work.findings}
        for file in manifest.files:
            if file.path not in found and file.path not in told:
                what = "the server does not list a file of the release"
                self._work.record(what, file.path, f"{file.size} bytes", MISSING)
        return found

    async def _save(self, wire: Wire, request: Request, name: str) -> None:
        """Write a reply to a new file; a partial one is removed."""
        place = self._folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                await wire.receive(request, file.write, lambda: (file.seek(0), file.truncate()))
        except OSError as error:
            raise disk_full(error, place) from error
        except Refused:
            place.unlink()
            raise


class _Lines:
    """Reads the lines of a query's reply as they arrive, and keeps id and address of each file.

    Args:
        where: of which address.
        most: how many files it may list.
    """

    def __init__(self, where: str, most: int) -> None:
        self._where = where
        self._most = most
        self.clear()

    def clear(self) -> None:
        """Forget what came."""
        self._rest = b""
        self.files: list[tuple[str, str | None]] = []

    def take(self, piece: bytes) -> None:
        """Read the lines that a piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise Refused("a line of the reply is too long", self._where, f"at most {_LONGEST_LINE} bytes", "more")
        for line in filter(bytes.strip, lines):
            self._keep(line)
        if len(self.files) > self._most:
            raise Refused("the reply lists too many files", self._where, f"at most {self._most}", "more")

    def _keep(self, line: bytes) -> None:
        try:
            file = json.loads(line).get("file")
        except (ValueError, RecursionError, AttributeError):
            raise Refused("not the reply of an exchange", self._where, "lines of JSON objects", line[:80]) from None
        if isinstance(file, dict):
            self.files.append((str(file.get("id"))[:100], _address(file)))


def _address(file: dict[str, Any]) -> str | None:
    """The address of a file, in either format of the protocol."""
    address = file.get("url")
    with suppress(KeyError, TypeError):
        address = file["deltaSingleAction"]["add"]["path"]
    return address if isinstance(address, str) else None


class _recorded:
    """Records a reply that is not what it should be as a finding."""

    def __init__(self, work: Inspection, where: str | None = None) -> None:
        self._work = work
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Refused):
            return False
        self._work.record(error.what, self._where or error.where, error.expected, error.found)
        return True


