-- One row per location and year: persons in three age bands, their shares, and dependants per hundred of working age.
WITH bands AS (
    SELECT
        location_code,
        location_name,
        year,
        sum(CASE WHEN age_from < 15 THEN persons ELSE 0 END) AS children_persons,
        sum(CASE WHEN age_from BETWEEN 15 AND 60 THEN persons ELSE 0 END) AS working_age_persons,
        sum(CASE WHEN age_from >= 65 THEN persons ELSE 0 END) AS retired_persons,
        sum(CASE WHEN sex = 'female' THEN persons ELSE 0 END) AS female_persons,
        sum(persons) AS persons
    FROM silver.un_population
    GROUP BY location_code, location_name, year
)

SELECT
    *,
    100 * retired_persons / persons AS retired_percent,
    100 * (children_persons + retired_persons) / nullif(working_age_persons, 0) AS dependency_percent
FROM bands
