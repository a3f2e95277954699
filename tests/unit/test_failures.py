"""Errors of the engine, the object store and the system become one line with a next step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from pyspark.errors.exceptions.connect import SparkConnectGrpcException

from jobs.errors import ExchangeError
from jobs.lake import engine_message
from jobs.lake.engine_errors import translate_engine_errors

AWAY = "the object store does not answer"
GONE = "the engine went away during the work"


@pytest.fixture(autouse=True)
def a_lake_in_a_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EXCHANGE_LAKE", "s3://bucket/lake")
    monkeypatch.setenv("EXCHANGE_SPARK", "sc://somewhere:15002/;token=planted-secret")
    yield


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EndpointConnectionError(endpoint_url="http://store"), AWAY),
        (ClientError({"Error": {"Code": "SlowDown", "Message": "slow down"}}, "PutObject"), "refused: .*SlowDown"),
        (OSError(errno.EBUSY, "Please reduce your request rate."), "the object store refused"),
        (OSError("Kernel error -> Generic S3 error\n  Error performing GET http://store/x"), AWAY),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SparkConnectGrpcException("... StatusCode.UNAVAILABLE, details = Socket closed"), GONE),
        (SparkConnectGrpcException("[INVALID_HANDLE.SESSION_CHANGED] The handle is invalid"), GONE),
        (
            SparkConnectGrpcException("(java.io.IOException) No space left on device"),
            "full, on one of the machines that",
        ),
        (
            SparkConnectGrpcException("DiskErrorException: Could not find any valid local directory for s3ablock"),
            "full, on one of the machines that",
        ),
        (
            SparkConnectGrpcException("[DELTA_CONCURRENT_WRITE] A concurrent transaction has"),
            "another process wrote a table",
        ),
        (SparkConnectGrpcException("AWSClientIOException: Unable to execute HTTP request: refused"), AWAY),
    ],
)
def test_an_engine_error_is_translated_into_one_line(error: Exception, message: str) -> None:
    with pytest.raises(ExchangeError, match=message) as caught, translate_engine_errors("source.yaml"):
        raise error
    assert caught.value.next_step
    assert "\n" not in str(caught.value)
    assert "planted-secret" not in str(caught.value)


def test_a_broken_connection_is_reported_without_grpc_details() -> None:
    details = 'status = StatusCode.UNAVAILABLE\n\tdetails = "Socket closed"\n\tdebug_error_string = "UNKNOWN"\n>'
    raised = SparkConnectGrpcException(f"<_InactiveRpcError of RPC that terminated with:\n\t{details}")
    assert engine_message(raised) == "Socket closed"


@pytest.mark.parametrize("error", [FileNotFoundError("bucket/x"), ValueError("a fault of this program")])
def test_an_unknown_error_is_raised_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, translate_engine_errors(Path("source.yaml")):
        raise error
    assert raised.value is error
