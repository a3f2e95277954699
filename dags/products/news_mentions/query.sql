-- One row per day and publisher.
SELECT
    mentioned_on,
    source_name,
    count(*) AS mentions,
    count(DISTINCT article_url) AS articles,
    count(DISTINCT event_code) AS events,
    avg(tone) AS mean_tone,
    min(tone) AS lowest_tone,
    avg(CAST(confidence_percent AS DOUBLE)) AS mean_confidence_percent,
    count(DISTINCT language_code) AS languages
FROM silver.gdelt_mentions
GROUP BY mentioned_on, source_name
