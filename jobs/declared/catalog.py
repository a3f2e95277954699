"""Reads what is declared (sources, products) without an engine, for Airflow, the steps and the command line alike."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from jobs.declared.connector import AnyConnector
from jobs.declared.format import AnyFormat
from jobs.declared.yaml_file import Declared, line_of, read_model
from jobs.declared.zones import Zone
from jobs.errors import DeclarationError, NotFound
from jobs.settings import settings

_NAME = re.compile(r"[a-z][a-z0-9_]{1,62}")
# Readers find a table's revisions and a product's releases under its name with these endings.
_KEPT = re.compile(r".*(_revisions|_v[0-9]+_[0-9]+_[0-9]+)")
_CRON_FIELDS = 5

SilverMode = Literal["append", "merge", "revisions", "snapshot"]


class Publisher(Declared):
    """Who publishes the data."""

    name: str
    url: str


class Licence(Declared):
    """The licence, and where its terms are published."""

    id: str = Field(min_length=1)
    url: str = Field(pattern=r"^https?://")
    attribution: str | None = None


class Rights(Declared):
    """What the exchange may do with the data, and the evidence for it."""

    redistribution: Literal["yes", "derived_only", "no", "unknown"]
    basis: Literal["own", "open_licence", "public_collection", "purchase", "public_data_grant", "consent"]
    evidence: str = Field(min_length=1)

    @field_validator("redistribution", mode="before")
    @classmethod
    def _yaml_booleans(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare yes or no as a boolean.
        return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


class Unpivot(Declared):
    """Wide to long: every column but `keep` becomes a row of (`name`, `value`)."""

    keep: tuple[str, ...] = Field(min_length=1)
    name: str
    value: str


class Reshape(Declared):
    """How rows change shape between bronze and silver."""

    unpivot: Unpivot


class Drop(Declared):
    """Cells with which the publisher marks "no data": counted, but not rows of silver."""

    column: str
    values: tuple[str, ...] = Field(min_length=1)
    reason: str = Field(min_length=1)


class Silver(Declared):
    """How rows of a later landing join those already there."""

    mode: SilverMode
    largest_loss: float = Field(
        default=0.05, ge=0, le=1,
        description="of a snapshot: share of the list that a delivery may lack; beyond it the delivery is held back",
    )
    accepted: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}(\.[0-9]+)?$")], ...] = Field(
        default=(), description="of a snapshot: first digits of deliveries that may lack more, because they are right"
    )

    @property
    def keeps_versions(self) -> bool:
        """Whether the table has every version of a row, with the time it became known."""
        return self.mode in ("revisions", "snapshot")

    @model_validator(mode="after")
    def _of_snapshots(self) -> Self:
        declared = self.model_fields_set - {"mode"}
        if declared and self.mode != "snapshot":
            raise ValueError(f"only the mode snapshot has {' and '.join(sorted(declared))}")
        return self


class SourceDeclaration(Declared):
    """The contents of one source.yaml."""

    title: str
    publisher: Publisher
    owner: str
    licence: Licence
    rights: Rights
    cadence: str
    connector: AnyConnector
    format: AnyFormat
    reshape: Reshape | None = None
    drop: tuple[Drop, ...] = ()
    zones: dict[str, Zone] = Field(default={}, description="columns of the contract that hold local times of a zone")
    silver: Silver
    tags: tuple[str, ...] = ()

    @field_validator("cadence")
    @classmethod
    def _cron(cls, value: str) -> str:
        if value.startswith("@") or len(value.split()) == _CRON_FIELDS:
            return value
        raise ValueError("not a cron line of five fields in UTC, like '0 16 * * 1-5'")


class ProductDeclaration(Declared):
    """The contents of one product.yaml."""

    title: str
    status: Literal["draft", "active"] = "active"
    question: str = Field(min_length=10, description="what a buyer pays to know")
    buyers: tuple[str, ...] = Field(min_length=1)
    owner: str
    licence: Licence
    cautions: tuple[str, ...] = ()
    partition: str | None = Field(
        default=None,
        description="column of product and inputs: a value's rows depend only on input rows of the same value",
    )
    largest_loss: float = Field(
        default=0.05, ge=0, le=1,
        description="share of a release's rows that the next may no longer have, unless a person accepts it",
    )
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A declared source; its name and sector are those of its folder."""

    name: str
    sector: str
    folder: Path
    declared: SourceDeclaration

    @property
    def file(self) -> Path:
        """The declaration itself."""
        return self.folder / "source.yaml"

    @property
    def silver_sql(self) -> Path | None:
        """The query from bronze rows to silver's raw columns, where reshaping is not enough."""
        file = self.folder / "silver.sql"
        return file if file.exists() else None

    @property
    def dag_id(self) -> str:
        """Name of the DAG that brings it in."""
        return f"ingest_{self.sector}_{self.name}"

    @property
    def table(self) -> str:
        """Name of its typed table."""
        return f"silver.{self.name}"


@dataclass(frozen=True)
class Product:
    """A declared product; its name is that of its folder."""

    name: str
    folder: Path
    declared: ProductDeclaration

    @property
    def file(self) -> Path:
        """The declaration itself."""
        return self.folder / "product.yaml"

    @property
    def query_file(self) -> Path:
        """The one query that builds it."""
        return self.folder / "query.sql"

    @property
    def dag_id(self) -> str:
        """Name of the DAG that builds and releases it."""
        return f"publish_{self.name}"

    @property
    def table(self) -> str:
        """Name of its table."""
        return f"gold.{self.name}"

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Tables its query reads, sorted, for example ``silver.smart_meter_readings``.

        Raises:
            DeclarationError: the query does not parse, reads nothing, or reads something that is not silver or gold.
        """
        from jobs.declared.sql import input_tables

        return input_tables(self.query_file)


Declaration = TypeVar("Declaration", Source, Product)


@dataclass(frozen=True)
class Catalog:
    """All declarations, and what is wrong with those that could not be read."""

    sources: dict[str, Source] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)
    mistakes: tuple[DeclarationError, ...] = ()

    def source(self, name: str) -> Source:
        """The source of that name.

        Raises:
            DeclarationError: it is declared, but its declaration is broken.
            NotFound: there is none.
        """
        return _find(name, self.sources, self.mistakes, "source")

    def product(self, name: str) -> Product:
        """The product of that name; raises as `source` does."""
        return _find(name, self.products, self.mistakes, "product")


def _find(name: str, among: dict[str, Declaration], mistakes: tuple[DeclarationError, ...], kind: str) -> Declaration:
    if name in among:
        return among[name]
    for mistake in mistakes:
        if mistake.file.parent.name == name:
            raise mistake
    names = ", ".join(sorted(among)) or "none is declared"
    raise NotFound(f"no {kind} '{name}'", expected=f"one of: {names}", next_step=f"exchange {kind}s lists them")


def find_source(name: str) -> Source:
    """Read one source without reading the others.

    Raises:
        DeclarationError: its declaration is broken.
        NotFound: there is none of that name.
    """
    alone = load_sources(only=name)
    return (alone if alone.sources or alone.mistakes else load_sources()).source(name)


def find_product(name: str) -> Product:
    """Read one product without reading the others; raises as `find_source` does."""
    alone = load_products(only=name)
    return (alone if alone.products or alone.mistakes else load_products()).product(name)


def load_sources(root: Path | None = None, *, only: str | None = None) -> Catalog:
    """Read every dags/sources/<sector>/<source>/source.yaml; a broken one becomes a mistake, the rest live.

    Args:
        root: folder of the catalogue; that of the settings if absent.
        only: a source's name or DAG id; the others are not read.
    """
    folder = (root or settings().catalogue) / "dags" / "sources"
    sources: dict[str, Source] = {}
    mistakes: list[DeclarationError] = []
    for file in sorted(folder.glob("*/*/source.yaml")):
        name, sector = file.parent.name, file.parent.parent.name
        if only and only not in (name, f"ingest_{sector}_{name}"):
            continue
        try:
            source = _read_source(file)
            _refuse_twin(source.name, file, sources)
            sources[source.name] = source
        except DeclarationError as mistake:
            mistakes.append(mistake)
    return Catalog(sources=sources, mistakes=tuple(mistakes))


def load_products(root: Path | None = None, *, only: str | None = None) -> Catalog:
    """Read every dags/products/<product>/product.yaml with the inputs of its query; broken ones become mistakes.

    Args:
        root: folder of the catalogue; that of the settings if absent.
        only: a product's name or DAG id; the others are not read.
    """
    folder = (root or settings().catalogue) / "dags" / "products"
    products: dict[str, Product] = {}
    mistakes: list[DeclarationError] = []
    for file in sorted(folder.glob("*/product.yaml")):
        if only and only not in (file.parent.name, f"publish_{file.parent.name}"):
            continue
        try:
            _check_name(file.parent.name, file)
            product = Product(file.parent.name, file.parent, read_model(file, ProductDeclaration))
            _ = product.inputs
            products[product.name] = product
        except DeclarationError as mistake:
            mistakes.append(mistake)
    return Catalog(products=products, mistakes=tuple(mistakes))


def load_catalog(root: Path | None = None) -> Catalog:
    """Read all declarations, and check that every product's inputs are declared."""
    sources = load_sources(root)
    products = load_products(root)
    declared = {s.table for s in sources.sources.values()} | {p.table for p in products.products.values()}
    broken = {m.file.parent.name for m in (*sources.mistakes, *products.mistakes)}
    dangling = tuple(
        _unknown_input(product, table, declared)
        for product in products.products.values()
        for table in product.inputs
        if table not in declared and table.split(".")[1] not in broken
    )
    return Catalog(sources.sources, products.products, sources.mistakes + products.mistakes + dangling)


def _read_source(file: Path) -> Source:
    name, sector = file.parent.name, file.parent.parent.name
    _check_name(name, file)
    _check_name(sector, file)
    declared = read_model(file, SourceDeclaration)
    _check_columns(declared, file)
    return Source(name, sector, file.parent, declared)


def _check_columns(declared: SourceDeclaration, file: Path) -> None:
    published = declared.format.columns
    kept = declared.reshape.unpivot.keep if declared.reshape else ()
    for column in kept:
        if column not in published:
            raise DeclarationError(
                f"unpivot keeps the column '{column}', which format.columns does not have",
                file=file,
                line=line_of(file, ("reshape", "unpivot", "keep")),
                field="reshape.unpivot.keep",
                expected=f"one of: {', '.join(published)}",
            )


def name_mistake(name: str) -> str | None:
    """What a name lacks to be that of a source or a product: what would be right; None if nothing."""
    if not _NAME.fullmatch(name):
        return "2 to 63 lower-case letters, digits and underscores, beginning with a letter"
    if _KEPT.fullmatch(name):
        return "another ending: x_revisions and x_v1_0_0 name the revisions of x and its release 1.0.0"
    return None


def _check_name(name: str, file: Path) -> None:
    expected = name_mistake(name)
    if expected:
        raise DeclarationError(
            f"the folder name '{name}' cannot name a table", file=file, expected=expected,
            next_step="rename the folder",
        )  # fmt: skip


def _refuse_twin(name: str, file: Path, sources: dict[str, Source]) -> None:
    twin = sources.get(name)
    if twin:
        raise DeclarationError(
            f"a second source named '{name}'",
            file=file,
            expected=f"one name for one source; the first is {twin.file}",
            next_step="rename one of the two folders",
        )


def _unknown_input(product: Product, table: str, declared: set[str]) -> DeclarationError:
    return DeclarationError(
        f"the query reads {table}, which nothing declares",
        file=product.query_file,
        expected=f"one of: {', '.join(sorted(declared))}",
        next_step="declare the source or correct the name",
    )
