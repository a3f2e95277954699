"""The sharing server's error responses, with the protocol's error codes."""

from __future__ import annotations

from starlette.responses import JSONResponse


class ShareError(Exception):
    """A request that gets ``{"errorCode", "message"}`` as its response.

    Args:
        status: HTTP status.
        code: error code; the Delta Sharing reference server's where it has one.
        message: what is wrong and what would be right, for the person at the other end. Never holds a token.
        denied: whether access was denied; False for a request that is invalid or cannot be met.
        headers: further response headers.
    """

    def __init__(
        self, status: int, code: str, message: str, *, denied: bool = False, headers: dict[str, str] | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.denied = denied
        self.headers = headers or {}
        super().__init__(message)


def unauthenticated(message: str) -> ShareError:
    """No token, an unknown one, or an expired one."""
    return ShareError(401, "UNAUTHENTICATED", message, denied=True, headers={"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> ShareError:
    """A genuine token or ticket that does not allow this, or no longer does."""
    return ShareError(403, "PERMISSION_DENIED", message, denied=True)


def missing(message: str) -> ShareError:
    """Something that does not exist, or that this buyer may not know about: the response is the same."""
    return ShareError(404, "RESOURCE_DOES_NOT_EXIST", message, denied=True)


def invalid(message: str) -> ShareError:
    """A parameter with an invalid value."""
    return ShareError(400, "INVALID_PARAMETER_VALUE", message)


def malformed(message: str, status: int = 400) -> ShareError:
    """A request body that cannot be read."""
    return ShareError(status, "MALFORMED_REQUEST", message)


def too_long(most: int) -> ShareError:
    """A request with more headers than any client needs; its connection ends."""
    return ShareError(
        431, "MALFORMED_REQUEST", f"the request's headers are longer than {most} bytes", headers={"Connection": "close"}
    )


def slow(message: str) -> ShareError:
    """A request that did not arrive in time; its connection ends, because the rest of it may still be on its way."""
    return ShareError(408, "REQUEST_TIMEOUT", message, headers={"Connection": "close"})


def unsupported(message: str, status: int = 400) -> ShareError:
    """Something that this server or this table does not support."""
    return ShareError(status, "UNSUPPORTED_OPERATION", message)


def internal() -> ShareError:
    """An internal error. Its cause is in our log, not in the response."""
    return ShareError(500, "INTERNAL_ERROR", "the exchange could not answer this request; please try again later")


def busy(message: str, seconds: int = 2) -> ShareError:
    """Something that works again after some seconds."""
    return ShareError(503, "TEMPORARILY_UNAVAILABLE", message, headers={"Retry-After": str(seconds)})


def too_many(message: str, seconds: int) -> ShareError:
    """More requests than one client may make; the next one is welcome after some seconds."""
    return ShareError(429, "RESOURCE_EXHAUSTED", message, denied=True, headers={"Retry-After": str(seconds)})


class Json(JSONResponse):
    """JSON as the protocol's reference server labels it."""

    media_type = "application/json; charset=utf-8"


def respond(error: ShareError) -> Json:
    """Write an error response."""
    content = {"errorCode": error.code, "message": error.message}
    return Json(content, status_code=error.status, headers=error.headers)
