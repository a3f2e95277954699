-- One row per currency and year: mean price in HKD, its movement over the year, and the persons of its home market.
-- Prices are summed as whole numbers, so that every engine finds the same digits.
WITH homes AS (
    SELECT * FROM VALUES
        ('USD', '840'), ('JPY', '392'), ('GBP', '826'), ('CHF', '756'), ('AUD', '36'), ('CAD', '124'), ('NZD', '554'),
        ('CNY', '156'), ('HKD', '344'), ('KRW', '410'), ('SGD', '702'), ('INR', '356'), ('IDR', '360'), ('MYR', '458'),
        ('PHP', '608'), ('THB', '764'), ('ILS', '376'), ('TRY', '792'), ('ZAR', '710'), ('BRL', '76'), ('MXN', '484'),
        ('CZK', '203'), ('DKK', '208'), ('HUF', '348'), ('PLN', '616'), ('RON', '642'), ('SEK', '752'), ('ISK', '352'),
        ('NOK', '578')
        AS homes (currency_code, location_code)
),

rates AS (
    SELECT
        rate_on,
        currency_code,
        CAST(rate * 1000000 AS BIGINT) AS millionths
    FROM silver.ecb_reference_rates
),

prices AS (
    SELECT
        r.currency_code,
        year(r.rate_on) AS year,
        -- To ten digits, rounded half up: HKD times ten thousand million.
        (20000000000 * h.millionths + r.millionths) DIV (2 * r.millionths) AS price_e10
    FROM rates AS r
    INNER JOIN rates AS h ON r.rate_on = h.rate_on AND h.currency_code = 'HKD'
),

years AS (
    SELECT
        currency_code,
        year,
        sum(price_e10) / (10000000000 * count(*)) AS mean_price_hkd,
        100 * count(*) * (max(price_e10) - min(price_e10)) / sum(price_e10) AS range_percent,
        count(*) AS fixings
    FROM prices
    GROUP BY currency_code, year
),

people AS (
    SELECT
        location_code,
        location_name,
        year,
        sum(persons) AS persons,
        sum(CASE WHEN age_from BETWEEN 15 AND 60 THEN persons ELSE 0 END) AS working_age_persons
    FROM silver.un_population
    GROUP BY location_code, location_name, year
)

SELECT
    y.currency_code,
    y.year,
    p.location_code,
    p.location_name,
    p.year AS population_year,
    p.persons,
    p.working_age_persons,
    y.mean_price_hkd,
    y.range_percent,
    y.fixings
FROM years AS y
INNER JOIN homes AS h ON y.currency_code = h.currency_code
INNER JOIN people AS p ON h.location_code = p.location_code AND p.year = y.year - y.year % 5
