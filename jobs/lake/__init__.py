"""The one place that knows where tables are and how their versions are kept; it alone knows which engine it is on.

This is the door: sessions, tables, logs, stages and places are asked for here, as `lake.append` or `from jobs.lake
import connect`. What has a subject of its own is a module of its own, imported by its name: `guard`, `pointers`,
`partitions`, `views`, `objects`, `engine_errors`.
"""

from __future__ import annotations

from jobs.lake.engine import (
    SERVER,
    close,
    connect,
    delta_coordinates,
    delta_release,
    describe_engine,
    engine_message,
    ping,
    refresh,
)
from jobs.lake.log import (
    DataFile,
    Partition,
    changed_partitions,
    columns_at,
    delta,
    drop_cached_logs,
    exists,
    files,
    files_in,
    files_of,
    made_by,
    predicate,
    put_torn_aside,
    rows,
    rows_in,
    version,
)
from jobs.lake.place import from_path, location, relative
from jobs.lake.stages import Workspace, leftovers, show, try_engine, workspace
from jobs.lake.tables import (
    BOOKKEEPING,
    CURRENT,
    ORIGIN,
    REVISION_FIELDS,
    Field,
    append,
    attach,
    bookkeeping_fields,
    compact,
    create,
    delete,
    fields_of,
    is_shaped,
    merge,
    overwrite,
    read_table,
    replace,
    restore,
    rewritten,
)
from jobs.lake.vacuum import remove, unneeded, unneeded_log
from jobs.lake.views import session

__all__ = [
    "BOOKKEEPING", "CURRENT", "ORIGIN", "REVISION_FIELDS", "SERVER", "DataFile", "Field", "Partition", "Workspace",
    "append", "attach", "bookkeeping_fields", "changed_partitions", "close", "columns_at", "compact", "connect",
    "create", "delete", "delta", "delta_coordinates", "delta_release", "describe_engine", "drop_cached_logs",
    "engine_message", "exists", "fields_of", "files", "files_in", "files_of", "from_path", "is_shaped", "leftovers",
    "location", "made_by", "merge", "overwrite", "ping", "predicate", "put_torn_aside", "read_table", "refresh",
    "relative", "remove", "replace", "restore", "rewritten", "rows", "rows_in", "session", "show", "try_engine",
    "unneeded", "unneeded_log", "version", "workspace",
]  # fmt: skip
