"""DuckDB for the work, delta-rs (`deltalake`) for the tables."""

from __future__ import annotations

from typing import Any

from tests.bench.contenders.work import CODES, CONTRADICTION, FILE_NAME, LOGICAL_DATE, RUN_ID, Work, hold

_ORIGIN = "_file, _row, _landing_sha256, _run_id, _logical_date"

_TYPED = f"""
CREATE TEMP TABLE typed AS
SELECT *, CASE
    WHEN raw_read_at IS NOT NULL AND read_at IS NULL THEN 'read_at.type'
    WHEN raw_kwh IS NOT NULL AND energy_kwh IS NULL THEN 'energy_kwh.type'
    WHEN meter_code IS NULL THEN 'meter_code.required'
    WHEN NOT regexp_matches(meter_code, '^M[0-9]{{5}}$') THEN 'meter_code.pattern'
    WHEN read_at IS NULL THEN 'read_at.required'
    WHEN read_at < TIMESTAMPTZ '2000-01-01' OR read_at > TIMESTAMPTZ '2100-01-01' THEN 'read_at.range'
    WHEN energy_kwh IS NULL THEN 'energy_kwh.required'
    WHEN energy_kwh < 0 OR energy_kwh > 1000 THEN 'energy_kwh.range'
    WHEN status_code NOT IN {CODES} THEN 'status_code.enum'
    WHEN epoch(read_at) % 3600 <> 0 THEN 'table.on_the_hour'
END AS reason
FROM (
    SELECT meter AS meter_code, make_timestamptz(epoch_us(try_cast(read_at AS TIMESTAMP))) AS read_at,
        try_cast(kwh AS DECIMAL(9,3)) AS energy_kwh, status AS status_code,
        strftime(try_cast(read_at AS TIMESTAMP), '%Y-%m') AS read_month,
        read_at AS raw_read_at, kwh AS raw_kwh, {_ORIGIN}
    FROM bronze
)
"""

_SETTLED = """
CREATE TEMP TABLE settled AS
SELECT *, min(energy_kwh) OVER same <> max(energy_kwh) OVER same
        OR min(status_code) OVER same <> max(status_code) OVER same AS contradicts,
    row_number() OVER (PARTITION BY meter_code, read_at ORDER BY _row) AS nth
FROM typed SEMI JOIN repeated USING (meter_code, read_at)
WHERE reason IS NULL
WINDOW same AS (PARTITION BY meter_code, read_at)
"""

_COLUMNS = f"meter_code, read_at, energy_kwh, status_code, read_month, {_ORIGIN}"

_QUARANTINE = f"""
SELECT reason AS rule, split_part(reason, '.', 1) AS column_name,
    CASE split_part(reason, '.', 1) WHEN 'read_at' THEN raw_read_at WHEN 'energy_kwh' THEN raw_kwh
        WHEN 'meter_code' THEN meter_code WHEN 'status_code' THEN status_code END AS value,
    CAST(to_json({{meter: meter_code, read_at: raw_read_at, kwh: raw_kwh, status: status_code}}) AS VARCHAR) AS record,
    {_ORIGIN}
FROM (
    SELECT * FROM typed WHERE reason IS NOT NULL
    UNION ALL BY NAME
    SELECT * EXCLUDE (contradicts, nth) REPLACE ('{CONTRADICTION}' AS reason) FROM settled WHERE contradicts
)
"""

_BROKEN_SILVER = f"""
SELECT count_if(meter_code IS NULL), count_if(NOT regexp_matches(meter_code, '^M[0-9]{{5}}$')),
    count_if(read_at IS NULL), count_if(read_at < TIMESTAMPTZ '2000-01-01' OR read_at > TIMESTAMPTZ '2100-01-01'),
    count_if(energy_kwh IS NULL), count_if(energy_kwh < 0 OR energy_kwh > 1000),
    count_if(status_code NOT IN {CODES}), count_if(epoch(read_at) % 3600 <> 0)
FROM silver
"""

_PRODUCT = """
SELECT meter_code, read_month, CAST(sum(energy_kwh) AS DECIMAL(18,3)) AS consumption_kwh, max(energy_kwh) AS peak_kwh,
    count(*) AS hours_read, count(DISTINCT CAST(read_at AS DATE)) AS days_read,
    count_if(status_code = 'E')::BIGINT AS estimated_hours
FROM silver GROUP BY meter_code, read_month
"""

_BROKEN_GOLD = """
SELECT count_if(meter_code IS NULL), count_if(read_month IS NULL),
    count_if(NOT regexp_matches(read_month, '^[0-9]{4}-[0-9]{2}$')),
    count_if(consumption_kwh IS NULL OR consumption_kwh < 0),
    count_if(peak_kwh IS NULL OR peak_kwh < 0 OR peak_kwh > 1000),
    count_if(hours_read IS NULL OR hours_read NOT BETWEEN 1 AND 744),
    count_if(days_read IS NULL OR days_read NOT BETWEEN 1 AND 31),
    count_if(estimated_hours IS NULL OR estimated_hours NOT BETWEEN 0 AND 744), count_if(peak_kwh > consumption_kwh)
FROM gold
"""


def start(work: Work) -> Any:  # noqa: ARG001 - all contenders start alike
    """Import both and open a database in memory."""
    import deltalake  # noqa: F401 - imported to count its time
    import duckdb

    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    return database


def run(engine: Any, work: Work) -> None:
    """Do the work."""
    with work.step("bronze"):
        _write(
            engine.sql(
                f"SELECT meter, read_at, kwh, status, '{FILE_NAME}' AS _file, row_number() OVER () + 1 AS _row,"
                f" '{work.sha256}' AS _landing_sha256, '{RUN_ID}' AS _run_id,"
                f" TIMESTAMPTZ '{LOGICAL_DATE}' AS _logical_date"
                f" FROM read_csv('{work.csv}', all_varchar = true, header = true)"
            ),
            work,
            "bronze",
        )
    with work.step("silver"):
        _silver(engine, work)
    with work.step("check silver"):
        _view(engine, work, "silver")
        _check(engine, "silver", _BROKEN_SILVER, "meter_code, read_at")
    with work.step("gold"):
        _write(engine.sql(_PRODUCT), work, "gold", "read_month")
    with work.step("check gold"):
        _view(engine, work, "gold")
        _check(engine, "gold", _BROKEN_GOLD, "meter_code, read_month")


def stop(engine: Any) -> None:
    """Close the database."""
    engine.close()


def _silver(engine: Any, work: Work) -> None:
    _view(engine, work, "bronze")
    engine.execute(_TYPED)
    engine.execute(
        "CREATE TEMP TABLE repeated AS SELECT meter_code, read_at FROM typed WHERE reason IS NULL"
        " GROUP BY ALL HAVING count(*) > 1"
    )
    engine.execute(_SETTLED)
    _write(
        engine.sql(
            f"SELECT {_COLUMNS} FROM typed ANTI JOIN repeated USING (meter_code, read_at) WHERE reason IS NULL"
            f" UNION ALL SELECT {_COLUMNS} FROM settled WHERE NOT contradicts AND nth = 1"
        ),
        work,
        "silver",
        "read_month",
    )
    _write(engine.sql(_QUARANTINE), work, "quarantine")
    landed, duplicates = engine.execute(
        "SELECT (SELECT count(*) FROM typed), (SELECT count(*) FROM settled WHERE NOT contradicts AND nth > 1)"
    ).fetchall()[0]
    engine.execute("DROP TABLE typed")
    written = {layer: _rows(work, layer) for layer in ("bronze", "silver", "quarantine")}
    accounted = written["silver"] + written["quarantine"] + duplicates
    hold("silver", {"rows.balance": int(not landed == written["bronze"] == accounted)})


def _write(rows: Any, work: Work, layer: str, partition: str | None = None) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(work.table(layer)), rows.to_arrow_reader(), partition_by=partition)


def _view(engine: Any, work: Work, layer: str) -> None:
    from deltalake import DeltaTable

    files = DeltaTable(str(work.table(layer))).file_uris()
    engine.execute(
        f"CREATE OR REPLACE TEMP VIEW {layer} AS SELECT * FROM read_parquet({files}, hive_partitioning = true,"
        " hive_types_autocast = false)"
    )


def _rows(work: Work, layer: str) -> int:
    import pyarrow as pa
    from deltalake import DeltaTable

    return sum(pa.table(DeltaTable(str(work.table(layer))).get_add_actions())["num_records"].to_pylist())


def _check(engine: Any, layer: str, rules: str, key: str) -> None:
    broken = engine.execute(rules).fetchall()[0]
    rows, keys = engine.execute(
        f"SELECT (SELECT count(*) FROM {layer}), (SELECT count(*) FROM (SELECT 1 FROM {layer} GROUP BY {key}))"
    ).fetchall()[0]
    failed = {f"rule {n}": count for n, count in enumerate(broken)}
    hold(layer, failed | {"key.unique": rows - keys, "empty": int(not rows)})
