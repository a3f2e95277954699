-- One row per day and currency: the price of one unit in HKD and CNY, its daily log return and its 20-day volatility.
-- Quotients and sums are those of whole numbers, so that every engine finds the same digits.
WITH rates AS (
    SELECT
        rate_on,
        currency_code,
        rate,
        CAST(rate * 1000000 AS BIGINT) AS millionths
    FROM silver.ecb_reference_rates
),

prices AS (
    SELECT
        r.rate_on,
        r.currency_code,
        r.rate AS rate_per_eur,
        -- To ten digits, rounded half up.
        (20000000000 * h.millionths + r.millionths) DIV (2 * r.millionths) * 0.0000000001 AS price_hkd,
        (20000000000 * c.millionths + r.millionths) DIV (2 * r.millionths) * 0.0000000001 AS price_cny,
        h.millionths / r.millionths AS unrounded_hkd
    FROM rates AS r
    INNER JOIN rates AS h ON r.rate_on = h.rate_on AND h.currency_code = 'HKD'
    LEFT JOIN rates AS c ON r.rate_on = c.rate_on AND c.currency_code = 'CNY'
),

-- Returns in hundred-millionths, beyond which engines do not agree on a logarithm.
returns AS (
    SELECT
        *,
        CAST(
            round(100000000 * ln(unrounded_hkd / lag(unrounded_hkd) OVER (PARTITION BY currency_code ORDER BY rate_on)))
            AS BIGINT
        ) AS return_e8
    FROM prices
),

months AS (
    SELECT
        *,
        count(return_e8) OVER last_20 AS returns,
        sum(return_e8) OVER last_20 AS total,
        sum(return_e8 * return_e8) OVER last_20 AS squares
    FROM returns
    WINDOW last_20 AS (PARTITION BY currency_code ORDER BY rate_on ROWS BETWEEN 19 PRECEDING AND CURRENT ROW)
)

SELECT
    rate_on,
    currency_code,
    rate_per_eur,
    price_hkd,
    price_cny,
    return_e8 / 100000000 AS return_hkd,
    CASE
        WHEN returns = 20
            THEN sqrt((20 * squares - total * total) / (20 * 19)) / 100000000 * sqrt(252)
    END AS volatility_20d
FROM months
