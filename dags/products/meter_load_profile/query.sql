-- One row per meter and month, from hourly sums, whatever interval the meter is read at.
WITH hours AS (
    SELECT
        meter_code,
        read_month,
        date_trunc('hour', read_at) AS hour_at,
        max(utc_offset_hours) AS utc_offset_hours,
        sum(energy_kwh) AS energy_kwh
    FROM silver.smart_meter_readings
    GROUP BY meter_code, read_month, date_trunc('hour', read_at)
),

months AS (
    SELECT
        meter_code,
        read_month,
        sum(energy_kwh) AS consumption_kwh,
        max(energy_kwh) AS peak_kw,
        sum(CASE WHEN (hour(hour_at) + utc_offset_hours + 24) % 24 >= 22 OR (hour(hour_at) + utc_offset_hours + 24) % 24 < 6 THEN energy_kwh ELSE 0 END) AS night_kwh,
        count(*) AS hours_read,
        count_if(energy_kwh = 0) AS zero_hours,
        day(last_day(to_date(concat(read_month, '-01')))) * 24 AS hours_in_month
    FROM hours
    GROUP BY meter_code, read_month
)

SELECT
    meter_code,
    read_month,
    consumption_kwh,
    peak_kw,
    CAST(consumption_kwh AS DOUBLE) / nullif(CAST(hours_read * peak_kw AS DOUBLE), 0) AS load_factor,
    CAST(night_kwh AS DOUBLE) / nullif(CAST(consumption_kwh AS DOUBLE), 0) AS night_share,
    hours_read,
    zero_hours,
    hours_in_month - hours_read AS missing_hours
FROM months
