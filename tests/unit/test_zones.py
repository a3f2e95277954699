"""Local times of zones against Python's own zoneinfo, which is where the stretches come from by another way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.declared.zones import Zone, stretch_of, stretches

ZONES = (
    "America/New_York", "Europe/London", "Asia/Hong_Kong", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia",
    "America/Sao_Paulo", "Asia/Kathmandu", "UTC",
)  # fmt: skip
NAIVE_EPOCH = datetime(1970, 1, 1)


def offsets(zone: str, local: datetime) -> tuple[int, int] | None:
    """What to subtract for the first and the second instant of a local time; None if it does not exist."""
    aware = [local.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1)]
    back = [at.astimezone(UTC).astimezone(at.tzinfo).replace(tzinfo=None) for at in aware]
    if local not in back:
        return None
    first, second = (int((at.utcoffset() or timedelta()).total_seconds()) for at in aware)
    return first, second


def found(zone: str, local: datetime) -> tuple[int, int] | None:
    stretch = stretch_of(zone, int((local - NAIVE_EPOCH).total_seconds()))
    return None if stretch.earlier is None or stretch.later is None else (stretch.earlier, stretch.later)


@settings(max_examples=300)
@given(zone=st.sampled_from(ZONES), local=st.datetimes(datetime(1901, 1, 1), datetime(2100, 1, 1)))
def test_any_local_time_has_the_offsets_that_zoneinfo_gives_it(zone: str, local: datetime) -> None:
    local = local.replace(microsecond=0)
    assert found(zone, local) == offsets(zone, local)


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_the_clocks_is_found_to_the_second(zone: str) -> None:
    for stretch in stretches(zone)[1:]:
        assert stretch.start is not None
        for second in (-1, 0, 1):
            local = NAIVE_EPOCH + timedelta(seconds=stretch.start + second)
            assert found(zone, local) == offsets(zone, local), local


def test_a_zone_has_a_name_that_zoneinfo_knows() -> None:
    with pytest.raises(ValidationError, match="expected a name like Europe/Berlin"):
        Zone(zone="CEST+2")
    with pytest.raises(ValidationError, match="'refuse', 'earlier', 'later' or 'by_order'"):
        Zone.model_validate({"zone": "UTC", "doubled": "first"})
