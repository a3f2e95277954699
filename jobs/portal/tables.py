"""Builds the documentation site: every table's columns and rules, and the results of its checks (Data Docs)."""

from __future__ import annotations

import html
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.check import read_evidence
from jobs.check.evaluate import quiet
from jobs.declared.catalog import ProductDeclaration, load_products
from jobs.declared.compile import compile_rules
from jobs.declared.contract import Contract, load_contract
from jobs.declared.rules import DIMENSIONS, Rule
from jobs.errors import DeclarationError, NotFound
from jobs.lake.partitions import whole_table_read
from jobs.registry.checks import latest_checks
from jobs.settings import settings

# How many checks of a table get a page: all evidence is kept, but pages take time to build.
SHOWN_CHECKS = 5

# GX's Data Docs fetch scripts, styles and a tracking image from other sites. The exchange's pages fetch nothing: these
# tags are removed, and the content policy keeps a browser from running code in a publisher's values.
_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>|background: url\('https?:[^;]*;", re.DOTALL
)
_EFFECTS = {"error": "the version is not released", "warning": "the grade drops", "info": "shown only"}
_templates = Environment(
    loader=PackageLoader("jobs.portal"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class _Evidence:
    """The evidence of one check of a table, and where its Data Docs page is."""

    digest: str
    document: dict[str, Any]

    @property
    def page(self) -> str:
        """Address of its page, relative to the index."""
        table, run, when, batch = (url_quote(part, safe="") for part in self.key)
        return f"gx/validations/{table.replace('.', '/')}/{run}/{when}/{batch}.html"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """GX's key of its result: suite, run, time and batch."""
        name = f"{self.document['delta_version']}-{self.digest[:16]}"
        when = datetime.fromisoformat(self.document["logical_date"]).astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return self.document["table"], name, when, "version"


@dataclass(frozen=True)
class _Table:
    """What the index shows of a table: contract, rules and latest checks, or what is wrong with the contract.

    `product` is the declaration that sells the table, if there is one.
    """

    name: str
    contract: Contract | None = None
    rules: Sequence[Rule] = ()
    checks: Sequence[_Evidence] = ()
    mistake: DeclarationError | None = None
    product: ProductDeclaration | None = None

    @property
    def purpose(self) -> str:
        """The contract's description or purpose of the table."""
        if self.contract is None:
            return ""
        about = self.contract.document.get("description") or {}
        return self.contract.description or (about.get("purpose") if isinstance(about, dict) else about) or ""

    @property
    def remark(self) -> str | None:
        """A note for the reader about how the table is checked."""
        return whole_table_read(self.contract) if self.contract else None


def build_docs() -> Path:
    """Rebuild the site under ``home/docs``; returns its index page.

    One page shows every table with a contract: columns, rules and latest checks. Great Expectations renders a page for
    each check from the stored evidence. The site fetches nothing from other sites.

    Raises:
        Tampered: stored evidence was changed.
    """
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    site = home / f".docs-{uuid.uuid4().hex}"
    site.mkdir()
    try:
        checks = _checks()
        _data_docs([c for latest in checks.values() for c in latest], site / "gx")
        (site / "index.html").write_text(_index(checks), encoding="utf-8")
        return _replace(site, home / "docs") / "index.html"
    finally:
        shutil.rmtree(site, ignore_errors=True)


def _replace(site: Path, place: Path) -> Path:
    old = site.with_name(f"{site.name}-old")
    if place.exists():
        place.rename(old)
    site.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    return place


def _checks() -> dict[str, list[_Evidence]]:
    """The latest checks of each table that has a contract, newest first."""
    return {table: list(_latest(table)) for table in _contracts()}


def _latest(table: str) -> Iterator[_Evidence]:
    # Asking the registry costs the checks that are shown; the folder has every check ever made.
    for digest in dict.fromkeys(check.result_sha256 for check in latest_checks(table, SHOWN_CHECKS)):
        with suppress(NotFound):
            yield _Evidence(digest, read_evidence(digest))


def _contracts() -> Iterator[str]:
    """Names of all tables that have a contract, gold first."""
    for layer in ("gold", "silver"):
        for file in sorted((settings().catalogue / "expectations" / layer).glob("*.yaml")):
            yield f"{layer}.{file.stem}"


def _data_docs(checks: list[_Evidence], site: Path) -> None:
    """Have GX render the pages of these checks into a folder."""
    site.mkdir()
    if not checks:
        return
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        # Registers the expectations that the suites name, and configures GX before its own import.
        import jobs.check.expectations  # noqa: F401, I001 - must come first, see above
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context: Any = gx.get_context(mode="file", project_root_dir=scratch)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        for check in checks:
            _store_result(context, check)
        context.add_data_docs_site(
            "exchange",
            {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
        context.build_data_docs(site_names=["exchange"])
    shutil.rmtree(site / "static", ignore_errors=True)
    for page in site.glob("validations/**/*.html"):
        table = ".".join(page.relative_to(site).parts[1:3])
        page.write_text(_self_contained(page.read_text(encoding="utf-8"), table), encoding="utf-8")
    (site / "index.html").write_text('<meta http-equiv="refresh" content="0; url=../index.html">', encoding="utf-8")


def _store_result(context: Any, check: _Evidence) -> None:
    """Put the result that GX returned when the check ran into GX's store."""
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    document = check.document
    results = [_escaped(rule["result"]) for rule in document["rules"]]
    passed = sum(bool(result["success"]) for result in results)
    _, name, _, batch = check.key
    result = expectationSuiteValidationResultSchema.load(
        {
            "success": document["passed"],
            "suite_name": document["table"],
            "results": results,
            "statistics": {
                "evaluated_expectations": len(results),
                "successful_expectations": passed,
                "unsuccessful_expectations": len(results) - passed,
                "success_percent": 100 * passed / len(results),
            },
            "meta": {
                "great_expectations_version": document["great_expectations"],
                "run_id": {"run_name": document["run_id"], "run_time": document["logical_date"]},
                "active_batch_definition": {
                    "data_asset_name": f"{document['table']} version {document['delta_version']}",
                    "batch_identifiers": {},
                },
            },
        }
    )
    when = datetime.fromisoformat(document["logical_date"])
    identifier = ValidationResultIdentifier(
        expectation_suite_identifier=ExpectationSuiteIdentifier(document["table"]),
        run_id=RunIdentifier(run_name=name, run_time=when),
        batch_identifier=batch,
    )
    context.validation_results_store.set(identifier, result)


def _escaped(value: Any) -> Any:
    """The value with HTML escaped, because GX puts text into its pages unescaped."""
    if isinstance(value, dict):
        return {k: _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    return html.escape(value, quote=False) if isinstance(value, str) else value


def _self_contained(page: str, table: str) -> str:
    plain = _REMOTE.sub("", page)
    # The index shows the table's rules, so it replaces GX's page of the suite.
    plain = re.sub(r'href="((?:\.\./)+)expectations/[^"]*"', rf'href="\1../index.html#{table}"', plain)
    return plain.replace("</head>", f"{_templates.get_template('data_docs_head.html').render()}</head>", 1)


def _index(checks: dict[str, list[_Evidence]]) -> str:
    return _templates.get_template("tables.html").render(
        tables=list(_tables(checks)), dimensions=DIMENSIONS, effects=_EFFECTS
    )


def _tables(checks: dict[str, list[_Evidence]]) -> Iterator[_Table]:
    products = {p.table: p.declared for p in load_products().products.values()}
    for name in _contracts():
        try:
            contract = load_contract(name)
            yield _Table(name, contract, compile_rules(contract), checks.get(name, []), product=products.get(name))
        except DeclarationError as mistake:
            yield _Table(name, mistake=mistake)
