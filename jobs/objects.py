"""Keeps files in an object store that speaks S3, whole or not at all and never over another, and fetches them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from jobs.errors import ExchangeError

_SCHEME = "s3://"
# S3's own smallest part is 5 MiB; a part is what is sent again after a fault.
_PART = 16 << 20
_ATTEMPTS = 8
# What is fetched at once for a reader who goes on reading.
_AHEAD = 4 << 20
_ONCE = {"IfNoneMatch": "*"}
_VERIFIED = {"ChecksumAlgorithm": "SHA256"}
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
    """Store a file or some bytes under a name that nothing has yet; tells whether it was free.

    Large files go up in parts, of which the last step makes an object, so that a reader finds all of it or nothing. The
    store compares each part with its SHA-256.

    Raises:
        ExchangeError: the store cannot be reached, or does not let it be written.
    """
    from botocore.exceptions import ClientError

    bucket, key = _place(target)
    place = {"Bucket": bucket, "Key": key}
    with explained(target):
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
        # Parts that nobody makes an object of are kept, and paid for, until somebody says so.
        client.abort_multipart_upload(**upload)
        raise


def require_bucket(root: Path) -> None:
    """See that the bucket is there and can be listed.

    Raises:
        ExchangeError: it is not, or the store cannot be reached with these keys.
    """
    bucket, prefix = _place(root)
    with explained(root):
        _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)


def clock_skew(root: Path) -> float:
    """Seconds by which the store's clock is ahead of this machine's; to the second, as it tells no more."""
    bucket, prefix = _place(root)
    with explained(root):
        answer = _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    told = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    behind = (told - datetime.now(UTC)).total_seconds()
    return 0.0 if -1.0 <= behind <= 0.0 else behind


@contextmanager
def on_disk(address: Path | str) -> Iterator[Path]:
    """A file for those who need one on a disk: itself, or a copy that is gone after the block.

    Raises:
        FileNotFoundError: it is not there.
        ExchangeError: the store cannot be reached, or does not let it be read.
    """
    if not is_object(address):
        yield Path(address)
        return
    from botocore.exceptions import ClientError

    bucket, key = _place(address)
    with tempfile.TemporaryDirectory(prefix="exchange-") as folder:
        copy = Path(folder) / key.rpartition("/")[2]
        with explained(address):
            try:
                _client().download_file(bucket, key, str(copy))
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey"):
                    raise
                raise FileNotFoundError(str(address)) from None
        yield copy


def reader(path: Path) -> BinaryIO:
    """A file to read from any place of, without ever holding more than a few megabytes of it."""
    if not is_object(path):
        return path.open("rb")
    with explained(path):
        return cast("BinaryIO", path.open("rb", block_size=_AHEAD, cache_type="readahead"))  # type: ignore[call-overload]  # as fsspec's paths can


@contextmanager
def explained(where: Path | str) -> Iterator[None]:
    """Say in one line what keeps the object store from serving.

    Raises:
        ExchangeError: instead of what its client raises.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise ExchangeError(
            "there are no keys for the object store", where=str(where), expected=_SETTINGS,
            next_step="set these variables, or give this machine a role of its own",
        ) from error  # fmt: skip
    except (ClientError, Boto3Error) as error:
        raise _refused(error, where) from error
    except BotoCoreError as error:
        raise ExchangeError(
            f"the object store does not answer ({type(error).__name__})", where=str(where),
            expected="an address that serves S3, in AWS_ENDPOINT_URL unless it is AWS itself",
            next_step="see that the store runs and can be reached, then run the step again; nothing was lost",
        ) from error  # fmt: skip


def _refused(error: Exception, where: Path | str) -> ExchangeError:
    text = str(error)
    reasons = {
        "NoSuchBucket": ("the bucket is not there", "make it, or correct EXCHANGE_LAKE"),
        "AccessDenied": ("the object store does not allow it", "give the key the rights that infra/README.md lists"),
        "InvalidAccessKeyId": ("the object store does not know the key", "correct AWS_ACCESS_KEY_ID"),
        "SignatureDoesNotMatch": ("the secret is not that of the key", "correct AWS_SECRET_ACCESS_KEY"),
        "Forbidden": ("the object store does not allow it", "see the keys, and the rights that infra/README.md lists"),
    }
    for sign, (what, next_step) in reasons.items():
        if sign in text:
            return ExchangeError(what, where=str(where), expected=_SETTINGS, next_step=next_step)
    return ExchangeError(
        f"the object store refused: {text.splitlines()[0][:200]}", where=str(where),
        next_step="run the step again; nothing was lost",
    )  # fmt: skip


def _client() -> Any:
    # A client is no good after a fork, nor with another key or address.
    return _made_client(os.getpid(), tuple(map(os.environ.get, _VARIABLES)))


@lru_cache(maxsize=4)
def _made_client(_process: int, _variables: tuple[str | None, ...]) -> Any:
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    session = boto3.session.Session()
    return session.client("s3", config=Config(retries=retries, connect_timeout=5, read_timeout=60))


def _place(address: Path | str) -> tuple[str, str]:
    bucket, _, key = str(address).removeprefix(_SCHEME).partition("/")
    return bucket, key
