"""Every answer that is not what was asked for, with the protocol's error codes."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with ``{"errorCode", "message"}`` instead of what was asked for.

    Args:
        status: HTTP status.
        code: error code; those of the Delta Sharing reference server where it has one.
        message: what is wrong and what would be right, for the person at the other end. Never holds a token.
        denied: whether access was refused, as against a request that could not be understood or met.
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


def unauthenticated(message: str) -> Refusal:
    """No token, one that nobody knows, or one whose time is over."""
    return Refusal(401, "UNAUTHENTICATED", message, denied=True, headers={"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> Refusal:
    """A token or ticket that is known, and that may not do this, or not any more."""
    return Refusal(403, "PERMISSION_DENIED", message, denied=True)


def missing(message: str) -> Refusal:
    """Something that does not exist, or that this buyer may not know of: the answer is the same."""
    return Refusal(404, "RESOURCE_DOES_NOT_EXIST", message, denied=True)


def invalid(message: str) -> Refusal:
    """A parameter with a value that cannot be used."""
    return Refusal(400, "INVALID_PARAMETER_VALUE", message)


def malformed(message: str, status: int = 400) -> Refusal:
    """A request body that cannot be read."""
    return Refusal(status, "MALFORMED_REQUEST", message)


def unsupported(message: str, status: int = 400) -> Refusal:
    """Something that this server, or this table, cannot do."""
    return Refusal(status, "UNSUPPORTED_OPERATION", message)


def internal() -> Refusal:
    """A fault of ours. What it was stands in our log, not in the answer."""
    return Refusal(500, "INTERNAL_ERROR", "the exchange could not answer this request; please try again later")
