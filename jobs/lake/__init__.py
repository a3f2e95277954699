"""The one place that knows where tables are and how their versions are kept; it alone knows which engine it is on."""

from __future__ import annotations

from jobs.lake.log import (
    DataFile,
    Partition,
    columns_at,
    delta,
    exists,
    files,
    files_in,
    files_of,
    forget,
    made_by,
    predicate,
    rows,
    rows_in,
    touched,
    version,
)
from jobs.lake.place import from_path, location, relative
from jobs.lake.stages import clear_stages, counts, leftovers, show, stage, try_engine
from jobs.lake.tables import (
    BOOKKEEPING,
    Field,
    append,
    attach,
    bookkeeping_fields,
    compact,
    create,
    delete,
    expect,
    expect_nothing,
    fields_of,
    is_shaped,
    merge,
    overwrite,
    read,
    replace,
    restore,
    rewritten,
    see_expected,
)
from jobs.lake.vacuum import remove, unneeded, unneeded_log
from jobs.lake.views import session

__all__ = [
    "BOOKKEEPING", "DataFile", "Field", "Partition", "append", "attach", "bookkeeping_fields", "clear_stages",
    "columns_at", "compact", "counts", "create", "delete", "delta", "exists", "expect", "expect_nothing",
    "fields_of", "files", "files_in", "files_of", "forget", "from_path", "is_shaped", "leftovers", "location",
    "made_by", "merge", "overwrite", "predicate", "read", "relative", "remove", "replace", "restore", "rewritten",
    "rows", "rows_in", "see_expected", "session", "show", "stage", "touched", "try_engine", "unneeded",
    "unneeded_log", "version",
]  # fmt: skip
