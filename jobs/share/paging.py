"""Long lists in pieces: page tokens that say where to go on, and that nobody can make up."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.share.refusal import invalid
from jobs.share.tickets import Signer

DEFAULT_RESULTS = 500
MAX_RESULTS = 1000


def page(
    names: Sequence[str], *, listing: str, signer: Signer, max_results: str | None, page_token: str | None
) -> tuple[list[str], str | None]:
    """Cut one page out of a list of names.

    Args:
        names: all names.
        listing: which list this is; a token of one list is refused by another.
        signer: who signs the tokens.
        max_results: the client's wish, as received.
        page_token: the client's token, as received; None or empty for the first page.

    Returns:
        The names of this page in order, and the token of the next page, None if this is the last.

    Raises:
        Refusal: the wish is no number of at least 0, or the token is none of this list.
    """
    size = _size(max_results)
    rest = sorted(names)
    after = ""
    if page_token:
        value = signer.verify(f"page:{listing}", page_token)
        if value is None:
            raise invalid("pageToken is none that this listing returned; leave it out to start from the beginning")
        after = str(value[0])
        rest = [name for name in rest if name > after]
    cut = rest[:size]
    if len(cut) == len(rest):
        return cut, None
    return cut, signer.sign(f"page:{listing}", [cut[-1] if cut else after])


def _size(max_results: str | None) -> int:
    if max_results is None:
        return DEFAULT_RESULTS
    if not (max_results.isascii() and max_results.isdigit()) or len(max_results) > 10:
        raise invalid("maxResults must be a whole number of at least 0")
    return min(int(max_results), MAX_RESULTS)
