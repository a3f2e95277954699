"""Serves long lists in pages, with signed page tokens that say where the next page starts."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.share.errors import invalid
from jobs.share.tickets import Signer

DEFAULT_RESULTS = 500
MAX_RESULTS = 1000


def page(
    names: Sequence[str], *, listing: str, signer: Signer, max_results: str | None, page_token: str | None
) -> tuple[list[str], str | None]:
    """Cut one page out of a list of names.

    Args:
        names: all names.
        listing: the list's name; a token is valid for its own list only.
        signer: signs and verifies the tokens.
        max_results: ``maxResults`` as received.
        page_token: ``pageToken`` as received; None or empty for the first page.

    Returns:
        The names of this page in order, and the token of the next page; None if this is the last.

    Raises:
        ShareError: ``max_results`` is not a whole number of at least 0, or the token is not one of this list.
    """
    size = _size(max_results)
    rest = sorted(names)
    after = ""
    if page_token:
        value = signer.verify(f"page:{listing}", page_token)
        if value is None:
            raise invalid("pageToken did not come from this list; leave it out to start from the beginning")
        after = str(value[0])
        rest = [name for name in rest if name > after]
    names_here = rest[:size]
    if len(names_here) == len(rest):
        return names_here, None
    return names_here, signer.sign(f"page:{listing}", [names_here[-1] if names_here else after])


def _size(max_results: str | None) -> int:
    if max_results is None:
        return DEFAULT_RESULTS
    if not (max_results.isascii() and max_results.isdigit()) or len(max_results) > 10:
        raise invalid("maxResults must be a whole number of at least 0")
    return min(int(max_results), MAX_RESULTS)
