-- One row per day and currency: the price of one unit in HKD and CNY, its daily log return and its 20-day volatility.
WITH pairs AS (
    SELECT
        r.rate_on,
        r.currency_code,
        r.rate AS rate_per_eur,
        h.rate / r.rate AS price_hkd,
        c.rate / r.rate AS price_cny
    FROM silver.ecb_reference_rates AS r
    INNER JOIN silver.ecb_reference_rates AS h ON r.rate_on = h.rate_on AND h.currency_code = 'HKD'
    LEFT JOIN silver.ecb_reference_rates AS c ON r.rate_on = c.rate_on AND c.currency_code = 'CNY'
),

returns AS (
    SELECT
        *,
        ln(
            CAST(price_hkd AS DOUBLE)
            / CAST(lag(price_hkd) OVER (PARTITION BY currency_code ORDER BY rate_on) AS DOUBLE)
        ) AS return_hkd
    FROM pairs
)

SELECT
    rate_on,
    currency_code,
    rate_per_eur,
    price_hkd,
    price_cny,
    return_hkd,
    CASE
        WHEN count(return_hkd) OVER (PARTITION BY currency_code ORDER BY rate_on ROWS BETWEEN 19 PRECEDING AND CURRENT ROW) = 20
            THEN stddev_samp(return_hkd) OVER (
                PARTITION BY currency_code ORDER BY rate_on ROWS BETWEEN 19 PRECEDING AND CURRENT ROW
            ) * sqrt(252)
    END AS volatility_20d
FROM returns
