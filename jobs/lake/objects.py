"""Stores files in an object store that speaks S3, whole or not at all and never over another, and reads them."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from stat import S_ISDIR
from typing import Any, cast

from jobs.errors import ExchangeError, Unavailable
from jobs.settings import S3_PATIENCE

_SCHEME = "s3://"
# S3's own smallest part is 5 MiB; a part is what is sent again after a fault.
_PART = 16 << 20
# Read ahead for a reader who goes on reading.
_AHEAD = 4 << 20
_ONCE = {"IfNoneMatch": "*"}
_VERIFIED = {"ChecksumAlgorithm": "SHA256"}
_OF_DELTA_RS = "Generic S3 error"
# Error numbers with which s3fs raises the store's own faults (500, 503 and others).
_ANSWERED = (errno.EIO, errno.EBUSY, errno.EREMOTEIO, errno.EINVAL, errno.EPERM)
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")
_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
)  # fmt: skip
_SETTINGS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"


def is_object(address: Path | str) -> bool:
    """Whether an address is in an object store rather than on a disk."""
    return str(address).startswith(_SCHEME)


def put_if_absent(target: Path, source: Path | bytes) -> bool:
    """Store a file or bytes under a name, unless it is taken; returns whether it was free.

    Large files are sent in parts that the last request makes one object, so that a reader finds all of it or nothing.
    The store compares each part with its SHA-256.

    Raises:
        ExchangeError: the store cannot be reached, or refuses to write it.
    """
    from botocore.exceptions import ClientError

    bucket, key = _place(target)
    place = {"Bucket": bucket, "Key": key}
    with translate_store_errors(target):
        try:
            if isinstance(source, bytes):
                _client().put_object(**place, Body=source, **_ONCE, **_VERIFIED)
            elif source.stat().st_size <= _PART:
                with source.open("rb") as file:
                    _client().put_object(**place, Body=file, **_ONCE, **_VERIFIED)
            else:
                _put_in_parts(place, source)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _TAKEN:
                raise
            return False
    return True


def _put_in_parts(place: dict[str, str], source: Path) -> None:
    client = _client()
    upload = place | {"UploadId": client.create_multipart_upload(**place, **_VERIFIED)["UploadId"]}
    parts: list[dict[str, Any]] = []
    try:
        with source.open("rb") as file:
            while data := file.read(_PART):
                number = len(parts) + 1
                sent = client.upload_part(**upload, PartNumber=number, Body=data, **_VERIFIED)
                checksum = {"ChecksumSHA256": sent["ChecksumSHA256"]} if "ChecksumSHA256" in sent else {}
                parts.append({"PartNumber": number, "ETag": sent["ETag"]} | checksum)
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **_ONCE)
    except BaseException:
        # Parts that never become an object are kept, and paid for, until the upload is aborted.
        client.abort_multipart_upload(**upload)
        raise


def require_bucket(root: Path) -> None:
    """Require that the bucket exists and can be listed.

    Raises:
        ExchangeError: it does not or cannot, or the store cannot be reached with these keys.
    """
    _list_one(root)


def clock_skew(root: Path) -> float:
    """Seconds by which the store's clock is ahead of this machine's, whole ones, because its answers have no more."""
    store_time = parsedate_to_datetime(_list_one(root)["ResponseMetadata"]["HTTPHeaders"]["date"])
    ahead = (store_time - datetime.now(UTC)).total_seconds()
    return 0.0 if -1.0 <= ahead <= 0.0 else ahead


def _list_one(root: Path) -> dict[str, Any]:
    bucket, prefix = _place(root)
    with translate_store_errors(root):
        answer: dict[str, Any] = _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return answer


@contextmanager
def on_disk(address: Path | str) -> Iterator[Path]:
    """A file on a disk: itself, or a copy from the store that is removed after the block.

    Raises:
        FileNotFoundError: there is no such file.
        ExchangeError: the store cannot be reached, or refuses to read it.
    """
    if not is_object(address):
        yield Path(address)
        return
    from botocore.exceptions import ClientError

    bucket, key = _place(address)
    with tempfile.TemporaryDirectory(prefix="exchange-") as folder:
        copy = Path(folder) / key.rpartition("/")[2]
        with translate_store_errors(address):
            try:
                _client().download_file(bucket, key, str(copy))
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey"):
                    raise
                raise FileNotFoundError(str(address)) from None
        yield copy


def reader(path: Path, until: int | None = None) -> BufferedIOBase:
    """A file to read from any place of, without ever holding more than a few megabytes of it.

    Args:
        path: the file.
        until: where reading will end, so that of an object store nothing behind it is asked for.
    """
    if not is_object(path):
        return path.open("rb")
    with translate_store_errors(path):
        opened = path.open("rb", block_size=_AHEAD, cache_type="readahead", size=until)  # type: ignore[call-overload]  # as fsspec's paths can
        return cast("BufferedIOBase", opened)


@dataclass(frozen=True)
class Listed:
    """A file in a folder: `name` is its path from there, `size` is in bytes."""

    name: str
    size: int
    modified_at: datetime


def listed(folder: Path) -> Iterator[Listed]:
    """All files below a folder, in no order; of an object store they are asked for a thousand at a time."""
    if not is_object(folder):
        for path in folder.rglob("*"):
            # Another process may remove one meanwhile.
            with suppress(FileNotFoundError):
                status = path.stat()
                if not S_ISDIR(status.st_mode):
                    modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                    yield Listed(path.relative_to(folder).as_posix(), status.st_size, modified_at)
        return
    bucket, key = _place(folder)
    prefix = f"{key}/" if key else ""
    with translate_store_errors(folder):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                yield Listed(entry["Key"].removeprefix(prefix), entry["Size"], entry["LastModified"])


def sha256_of(file: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal, read in pieces.

    Raises:
        FileNotFoundError: it is not there.
    """
    with reader(file) as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


@contextmanager
def translate_store_errors(where: Path | str) -> Iterator[None]:
    """Translate errors of the object store's clients within the block into one line that says what to do.

    Raises:
        ExchangeError: in place of the client's error.
    """
    try:
        yield
    except Exception as error:
        translated = store_error(error, where)
        if translated is None:
            raise
        raise translated from error


def store_error(error: Exception, where: Path | str) -> ExchangeError | None:
    """Why the object store does not serve, from what one of its clients raised; None if the error is another.

    The client behind paths turns the store's answers into file errors, and keeps the answer as their cause.
    """
    if "botocore" not in sys.modules:
        return None
    from aiohttp import ClientError as ConnectionFault
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, SSLError
    from fsspec.exceptions import FSTimeoutError

    answer = error.__cause__ if isinstance(error, OSError) and isinstance(error.__cause__, ClientError) else error
    if isinstance(answer, NoCredentialsError):
        return ExchangeError(
            "there are no keys for the object store", where=str(where), expected=_SETTINGS,
            next_step="set these variables, or give this machine a role of its own",
        )  # fmt: skip
    if isinstance(answer, SSLError):
        return ExchangeError(
            "the object store's certificate is not trusted here", where=str(where),
            expected="one of an authority that this machine knows, for the name in AWS_ENDPOINT_URL",
            next_step="name the authority's file by AWS_CA_BUNDLE and SSL_CERT_FILE, see infra/README.md",
        )  # fmt: skip
    if isinstance(answer, (ClientError, Boto3Error)):
        return _refused(answer, where)
    if isinstance(answer, (BotoCoreError, ConnectionFault, FSTimeoutError, TimeoutError, ConnectionError)):
        return store_unavailable(where, type(answer).__name__)
    if isinstance(error, OSError) and _OF_DELTA_RS in str(error):
        return store_unavailable(where, "Delta's reader gave up")
    if getattr(error, "filename", None):
        # It is about a file on a disk.
        return None
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in _ANSWERED):
        return _refused(error, where)
    return None


def store_unavailable(where: Path | str, reason: str) -> Unavailable:
    """The error of a store that cannot be reached, or cannot serve now."""
    return Unavailable(
        f"the object store does not answer ({reason})", where=str(where),
        expected="an address that serves S3, in AWS_ENDPOINT_URL unless it is AWS itself",
        next_step="make sure that the store runs and can be reached, then run the step again; nothing was lost",
    )  # fmt: skip


def _refused(error: Exception, where: Path | str) -> ExchangeError:
    text = str(error)
    rights = "the rights that infra/README.md lists"
    reasons = {
        "NoSuchBucket": ("the bucket does not exist", "an existing bucket", "create it, or correct EXCHANGE_LAKE"),
        "AccessDenied": ("the object store does not allow it", rights, "give them to the key in AWS_ACCESS_KEY_ID"),
        "InvalidAccessKeyId": ("the object store does not know the key", _SETTINGS, "correct AWS_ACCESS_KEY_ID"),
        "SignatureDoesNotMatch": ("the secret is not that of the key", _SETTINGS, "correct AWS_SECRET_ACCESS_KEY"),
        "Forbidden": ("the object store does not allow it", rights, "check AWS_ACCESS_KEY_ID, its secret and rights"),
    }
    for sign, (what, expected, next_step) in reasons.items():
        if sign in text:
            return ExchangeError(what, where=str(where), expected=expected, next_step=next_step)
    return ExchangeError(
        f"the object store refused: {text.splitlines()[0][:200]}", where=str(where),
        next_step="run the step again; nothing was lost",
    )  # fmt: skip


def make_bucket(name: str, address: str, key: tuple[str, str], region: str) -> None:
    """Create a bucket in the store at an address, unless it exists; asks once and waits ten seconds at most.

    Args:
        name: of the bucket.
        address: URL of the store, reached without a proxy.
        key: access key and secret key.
        region: of the bucket.

    Raises:
        ExchangeError: the store does not answer, or refuses.
    """
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, proxies={})
    with translate_store_errors(address):
        # Typed by its service at run time only.
        client: Any = boto3.client(
            "s3", endpoint_url=address, aws_access_key_id=key[0], aws_secret_access_key=key[1], region_name=region,
            config=config,
        )  # fmt: skip
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)


def _client() -> Any:
    # A client cannot be used after a fork, nor with another key or address.
    return _made_client(os.getpid(), tuple(map(os.environ.get, _VARIABLES)))


@lru_cache(maxsize=4)
def _made_client(_process: int, _variables: tuple[str | None, ...]) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    return session.client("s3", config=Config(**S3_PATIENCE))


def _place(address: Path | str) -> tuple[str, str]:
    bucket, _, key = str(address).removeprefix(_SCHEME).partition("/")
    return bucket, key
