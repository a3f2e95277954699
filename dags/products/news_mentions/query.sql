-- One row per day and publisher.
SELECT
    mentioned_on,
    source_name,
    count(*) AS mentions,
    count(DISTINCT article_url) AS articles,
    count(DISTINCT event_code) AS events,
    -- Summed as whole numbers, because a sum of doubles depends on their order.
    sum(CAST(round(1000000000 * tone) AS BIGINT)) / (1000000000 * count(*)) AS mean_tone,
    min(tone) AS lowest_tone,
    sum(confidence_percent) / count(*) AS mean_confidence_percent,
    count(DISTINCT language_code) AS languages
FROM silver.gdelt_mentions
GROUP BY mentioned_on, source_name
