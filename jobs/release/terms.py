"""The terms of a release: its title, cautions and licence, and the rights to its sources, which are what is sold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jobs.declared.catalog import Licence, Product, SourceDeclaration, load_sources
from jobs.declared.drafts import is_written, names_terms
from jobs.errors import ExchangeError, NotFound
from jobs.release.manifest import AllTerms, SourceTerms, TermChange, Terms
from jobs.settings import settings


def licence_of(licence: Licence) -> Terms:
    """A declared licence as a manifest states it."""
    return Terms(id=licence.id, url=licence.url, attribution=licence.attribution)


def source_terms(names: Iterable[str]) -> tuple[SourceTerms, ...]:
    """The terms of sources as they are declared now.

    Raises:
        NotFound: a source is not declared any more.
        ExchangeError: the rights to one do not allow a release.
    """
    return tuple(_source_terms(name) for name in names)


def changes_since(sold: AllTerms, product: Product, sources: tuple[SourceTerms, ...]) -> tuple[TermChange, ...]:
    """What buyers of a release would find changed in the declared terms.

    Args:
        sold: the terms of that release.
        product: the product as it is declared now.
        sources: the terms of its sources as they are declared now.
    """
    declared = product.declared
    now = AllTerms(
        title=declared.title, cautions=declared.cautions, licence=licence_of(declared.licence), sources=sources
    )  # fmt: skip
    return changes_between(sold, now)


def changes_between(before: AllTerms, after: AllTerms) -> tuple[TermChange, ...]:
    """What differs in the terms of two releases, by name."""
    old, new = _listed(before), _listed(after)
    return tuple(
        TermChange(name=name, before=old.get(name), after=new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def have_changed(sold: AllTerms, product: Product) -> bool:
    """Whether a release's terms are no longer the declared ones; also if they do not allow a release any more."""
    try:
        return bool(changes_since(sold, product, source_terms(s.source for s in sold.sources)))
    except ExchangeError:
        return True


def _listed(terms: AllTerms) -> dict[str, str]:
    """Terms by the name that a reader of `exchange diff` sees."""
    listed = {"title": terms.title, **_licence("licence", terms.licence)}
    listed |= {f"caution {number}": caution for number, caution in enumerate(terms.cautions or (), start=1)}
    for source in terms.sources:
        own = {"title": source.title, "publisher": source.publisher, "redistribution": source.redistribution}
        own |= {"basis": source.basis, **_licence("licence", source.licence)}
        listed |= {f"{source.source}: {name}": value for name, value in own.items()}
    return listed


def _licence(name: str, licence: Terms) -> dict[str, str]:
    parts = {name: licence.id, f"{name}'s address": licence.url, "attribution": licence.attribution}
    return {part: value for part, value in parts.items() if value is not None}


def _declaration(name: str) -> tuple[SourceDeclaration, Path]:
    try:
        source = load_sources(only=name).source(name)
    except NotFound as error:
        raise NotFound(
            f"the source '{name}' is not declared, so its licence is unknown",
            where=str(settings().catalogue / "dags" / "sources"),
            expected="a declaration for every source that a release comes from",
            next_step="restore its declaration, which a source keeps even after it has stopped",
        ) from error
    return source.declared, source.file


def _source_terms(name: str) -> SourceTerms:
    declared, file = _declaration(name)
    rights = declared.rights
    allowed = rights.redistribution not in ("no", "unknown")
    if not (allowed and names_terms(declared.licence) and is_written(rights.evidence)):
        raise ExchangeError(
            f"the rights to '{name}' do not allow a release (redistribution: {rights.redistribution}, "
            f"licence: {declared.licence.id}, evidence: {rights.evidence})",
            where=f"{file} (rights)",
            expected="redistribution yes or derived_only, under a named licence, with evidence",
            next_step="clear the rights with the publisher, or remove the source from the product",
        )
    return SourceTerms(
        source=name,
        title=declared.title,
        publisher=declared.publisher.name,
        licence=licence_of(declared.licence),
        redistribution=declared.rights.redistribution,
        basis=declared.rights.basis,
    )
