"""Builds the documentation that people read: every table's columns and rules, and what its checks found (Data Docs)."""

from __future__ import annotations

import html
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote

from jobs.check import evidence
from jobs.check.evaluate import quiet
from jobs.declared.compile import compile_rules
from jobs.declared.contract import Contract, load_contract
from jobs.declared.rules import DIMENSIONS, Rule
from jobs.errors import DeclarationError
from jobs.lake.partitions import whole_table_read
from jobs.settings import settings

# How many checks of a table have a page: all evidence stays kept, but pages cost time to build.
SHOWN_CHECKS = 5

# Data Docs as GX writes them fetch scripts, styles and a counting image from elsewhere. The exchange's pages fetch
# nothing: what would is taken out, and the policy keeps a browser from running what a publisher's value may hold.
_POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>|background: url\('https?:[^;]*;", re.DOTALL
)
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{border-bottom:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere}th{background:var(--soft)}code{font-size:.9em}
section{margin-top:3rem}h2{border-bottom:2px solid var(--line)}
.failed{color:#c62828;font-weight:600}.passed{color:#2e7d32;font-weight:600}
"""
_DATA_DOCS_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:0 auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}ul{list-style:none;padding-left:0}
th,td{border:1px solid #8884;padding:.3rem .6rem;text-align:left;vertical-align:top}
.badge{background:#8882;border-radius:.3rem;padding:0 .3rem;font-family:monospace}.card{margin:1rem 0}
.fa-check-circle::before{content:"\\2714";color:#2e7d32}.fa-times::before{content:"\\2716";color:#c62828}
.fa-exclamation-triangle::before{content:"\\26a0";color:#b26a00}
nav.navbar,button,.modal,.cooltip,.ge-index-page-site-name-title,.navigation,.sticky{display:none!important}
"""


@dataclass(frozen=True)
class _Checked:
    """One kept check of a table, and where its page of Data Docs is, relative to the site."""

    digest: str
    document: dict[str, Any]

    @property
    def page(self) -> str:
        """Address of its page, from the index."""
        table, run, when, batch = (url_quote(part, safe="") for part in self.key)
        return f"gx/validations/{table.replace('.', '/')}/{run}/{when}/{batch}.html"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What GX files its result under: suite, run, time and batch."""
        name = f"{self.document['delta_version']}-{self.digest[:16]}"
        when = datetime.fromisoformat(self.document["logical_date"]).astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return self.document["table"], name, when, "version"


def build_docs() -> Path:
    """Build the site under ``home/docs`` anew; returns its index page.

    One page shows every table that has a contract, with its columns, rules and last checks; the checks' own pages are
    made by Great Expectations from the evidence kept. Nothing in the site is fetched from elsewhere.

    Raises:
        Tampered: kept evidence has been changed.
    """
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    site = home / f".docs-{uuid.uuid4().hex}"
    site.mkdir()
    try:
        checks = _checks()
        _data_docs([c for found in checks.values() for c in found], site / "gx")
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


def _checks() -> dict[str, list[_Checked]]:
    """The last checks of each table, newest first."""
    found: dict[str, list[_Checked]] = {}
    for digest in evidence.digests():
        document = evidence.read_evidence(digest)
        if "suite" in document:
            found.setdefault(document["table"], []).append(_Checked(digest, document))
    for checks in found.values():
        checks.sort(key=lambda c: (c.document["logical_date"], c.document["delta_version"]), reverse=True)
        del checks[SHOWN_CHECKS:]
    return found


def _data_docs(checks: list[_Checked], site: Path) -> None:
    """Let GX render its pages of these checks into a folder."""
    site.mkdir()
    if not checks:
        return
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        # Registers the expectations that the suites name, and readies GX itself for import.
        import jobs.check.expectations  # noqa: F401, I001 - comes first, see above
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context: Any = gx.get_context(mode="file", project_root_dir=scratch)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        for check in checks:
            _hand_back(context, check)
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


def _hand_back(context: Any, check: _Checked) -> None:
    """Give GX a result that it returned when the check ran."""
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
    """GX puts text into its pages as it is."""
    if isinstance(value, dict):
        return {k: _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    return html.escape(value, quote=False) if isinstance(value, str) else value


def _self_contained(page: str, table: str) -> str:
    plain = _REMOTE.sub("", page)
    # What GX links to as the suite's page, the index shows as the table's rules.
    plain = re.sub(r'href="((?:\.\./)+)expectations/[^"]*"', rf'href="\1../index.html#{table}"', plain)
    return plain.replace("</head>", f"{_POLICY}<style>{_DATA_DOCS_STYLE}</style></head>", 1)


def _index(checks: dict[str, list[_Checked]]) -> str:
    tables = list(_tables())
    links = " · ".join(f'<a href="#{_text(name)}">{_text(name)}</a>' for name, _ in tables)
    sections = "".join(
        _section(name, found, checks.get(name, [])) if isinstance(found, Contract) else _unreadable(name, found)
        for name, found in tables
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tables of the exchange</title>{_POLICY}'
        f"<style>{_STYLE}</style></head><body><h1>Tables of the exchange</h1><nav>{links}</nav>{sections}</body></html>"
    )


def _tables() -> Iterator[tuple[str, Contract | DeclarationError]]:
    """Every table that has a contract, gold first, with the contract or what is wrong with it."""
    for layer in ("gold", "silver"):
        for file in sorted((settings().catalogue / "expectations" / layer).glob("*.yaml")):
            name = f"{layer}.{file.stem}"
            try:
                contract = load_contract(name)
                compile_rules(contract)
                yield name, contract
            except DeclarationError as mistake:
                yield name, mistake


def _unreadable(name: str, mistake: DeclarationError) -> str:
    return f'<section id="{_text(name)}"><h2>{_text(name)}</h2><p class="failed">{_text(mistake)}</p></section>'


def _section(name: str, contract: Contract, checks: list[_Checked]) -> str:
    about = contract.document.get("description") or {}
    purpose = about.get("purpose") if isinstance(about, dict) else about
    remark = whole_table_read(contract)
    columns = [
        (
            f"<code>{_text(c.name)}</code>",
            _text(c.type.lower()),
            _text(c.description),
            _text(c.unit or ""),
            _text(c.classification),
            "key" if c.key_position is not None else "always" if c.required else "",
        )
        for c in contract.columns
    ]
    return (
        f'<section id="{_text(name)}"><h2>{_text(name)}</h2><p>{_text(contract.description or purpose or "")}</p>'
        f"<p>Contract {_text(contract.version)}, sha256 <code>{contract.digest[:16]}…</code></p>"
        + (f"<p>{_text(remark)}</p>" if remark else "")
        + _table(("Column", "Type", "Meaning", "Unit", "Class", "Present"), columns)
        + "<h3>Rules</h3>"
        + _table(("Rule", "What must hold", "Dimension", "If broken"), [_rule_row(r) for r in compile_rules(contract)])
        + "<h3>Checks</h3>"
        + (_check_table(checks) if checks else "<p>Not checked yet.</p>")
        + "</section>"
    )


def _rule_row(rule: Rule) -> tuple[str, ...]:
    effect = {"error": "the version is not released", "warning": "the grade falls", "info": "it is shown"}
    return f"<code>{_text(rule.id)}</code>", _text(rule.description), rule.dimension, effect[rule.severity]


def _check_table(checks: list[_Checked]) -> str:
    rows = []
    for check in checks:
        found = check.document
        failed = [_text(rule["id"]) for rule in found["rules"] if not rule["success"]]
        scores = (found["dimensions"].get(d) for d in DIMENSIONS)
        rows.append(
            (
                f'<a href="{check.page}">version {found["delta_version"]}</a>',
                _text(found["logical_date"][:16]),
                f"{found['rows']:,}" + ("" if found["scope"] is None else " (the rows that changed)"),
                '<span class="passed">passed</span>' if found["passed"] else '<span class="failed">failed</span>',
                f"{found['grade']} ({found['score']:.1f})",
                *("not assessed" if score is None else f"{score:.1f}" for score in scores),
                ", ".join(failed),
            )
        )
    return _table(("Check", "As of (UTC)", "Rows", "Result", "Grade", *map(str.capitalize, DIMENSIONS), "Failed"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + f"</tr>{body}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value))
