"""The functions that SQL may call here, each reviewed: known to both engines, and touching nothing but their arguments.

Chosen of the 533 names in Spark 4.1.4's SHOW ALL FUNCTIONS, by running the examples of Spark's own documentation on
Spark and on Sail 0.7.2. Left out are those that one engine lacks or answers otherwise; that read files, the environment
or the session; that run code of their own; and that raise errors with a text of the author's choosing. A name that is
not here is refused, so a function that a later engine brings stays unknown until someone has reviewed it.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCALARS = _names("""
    abs acos acosh asin asinh atan atan2 atanh bin cbrt ceil ceiling cos cosh cot csc degrees e exp expm1
    factorial floor greatest hex hypot least ln log log10 log1p log2 mod negative pi pmod positive pow power radians
    rint round sec sign signum sin sinh sqrt tan tanh try_add try_divide try_mod unhex
    width_bucket
    add_months convert_timezone date_add date_diff date_format date_from_unix_date date_part date_sub date_trunc dateadd
    datediff datepart day dayname dayofmonth dayofweek dayofyear extract from_unixtime from_utc_timestamp hour last_day
    make_date make_timestamp minute month monthname months_between next_day quarter second timestamp_micros
    timestamp_millis to_date to_timestamp to_timestamp_ltz to_timestamp_ntz to_unix_timestamp
    to_utc_timestamp trunc try_make_timestamp try_to_timestamp unix_date unix_micros unix_millis unix_seconds
    unix_timestamp weekday weekofyear year
    equal_null isnan isnotnull isnull regexp_like
    array array_append array_compact array_contains array_distinct array_except array_insert array_intersect array_join
    array_max array_min array_position array_prepend array_remove array_repeat array_size array_sort array_union
    arrays_overlap arrays_zip flatten get sequence slice sort_array
    ascii base64 bit_length btrim char char_length character_length chr concat_ws contains elt encode endswith
    find_in_set format_number format_string initcap instr lcase left len length levenshtein locate lower lpad ltrim
    luhn_check mask octet_length overlay position printf regexp_count regexp_extract regexp_extract_all regexp_instr
    regexp_replace regexp_substr repeat replace right rpad rtrim soundex space split split_part startswith substr
    substring substring_index to_char to_number translate trim try_to_number ucase unbase64 upper
    coalesce if ifnull nanvl nullif nullifzero nvl nvl2 zeroifnull
    bigint boolean date decimal double float int smallint string timestamp tinyint cast try_cast
    bit_count bit_get getbit shiftleft shiftright shiftrightunsigned
    cardinality concat element_at reverse size try_element_at
    crc32 md5 sha sha1 sha2 xxhash64
    get_json_object json_array_length json_object_keys to_json from_json
    map map_concat map_contains_key map_entries map_from_arrays map_from_entries map_keys map_values str_to_map
    named_struct struct typeof url_decode url_encode try_url_decode parse_url
""")
AGGREGATES = _names("""
    avg bit_and bit_or bit_xor bool_and bool_or corr count count_if covar_pop covar_samp every grouping grouping_id
    kurtosis max max_by mean median min min_by percentile regr_avgx regr_avgy regr_intercept regr_r2
    regr_slope regr_sxx regr_sxy regr_syy skewness some std stddev stddev_pop stddev_samp sum try_avg try_sum var_pop
    var_samp variance
""")
# Their value depends on the order of rows, so that in a declaration they need a window with an order.
WINDOWS = _names("""
    cume_dist dense_rank first first_value lag last last_value lead nth_value ntile percent_rank rank row_number
""")
# Likewise; in a declaration one of `ORDERLESS` must surround them.
COLLECTIONS = _names("array_agg collect_list collect_set")
ORDERLESS = _names("array_max array_min array_size array_sort cardinality size sort_array")
# Make several rows of one.
GENERATORS = _names("explode explode_outer inline inline_outer posexplode posexplode_outer stack")
TABLES = GENERATORS | {"range"}
# Of these the value differs from call to call without an argument.
NEEDS_ARGUMENT = _names("to_unix_timestamp unix_timestamp")
# With more arguments than these they begin with a unit of time, which no parser can tell from a column.
COUNTS_UNITS = {"date_add": 2, "dateadd": 2, "datediff": 2, "date_diff": 2}
# Harmless, but their value depends on the moment, on chance or on the order of rows: for reading only.
UNSTABLE = _names("""
    any_value approx_count_distinct approx_percentile curdate current_date current_timestamp listagg localtimestamp mode
    now percentile_approx rand randn random shuffle string_agg uuid
""")

# Harmless, but Sail 0.7.2 answers otherwise than Spark, or does not take every argument: for reading only.
DIFFERING = _names("bround conv decode hash regr_count timestamp_seconds try_multiply try_subtract")

DECLARED = SCALARS | AGGREGATES | WINDOWS | COLLECTIONS | GENERATORS
READING = DECLARED | UNSTABLE | DIFFERING
# Spark takes such a name for a function call if no column has it, even without parentheses and within backticks.
CALLED_WITHOUT_PARENTHESES = _names("""
    current_catalog current_database current_date current_path current_schema current_time current_timestamp
    current_user grouping__id localtime localtimestamp session_user system_user user
""")
