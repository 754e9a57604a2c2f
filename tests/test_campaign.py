"""The campaign of sane and broken calls finds nothing: 500 cases here, more by its command."""

from collections import Counter

import pytest

from . import campaign


@pytest.mark.slow
def test_nothing_is_found():
    assert campaign.run(500) == []


def test_some_cases():
    found = [finding for seed in range(1000, 1015) for finding in campaign.run_case(seed)]
    assert found == []


def test_cases_are_of_all_kinds():
    """From each start, each call, with nothing broken and with each thing."""
    cases = [campaign.make_case(seed) for seed in range(2000, 2800)]
    assert set(campaign.STARTS) == {case[0] for case in cases}
    assert len({case[1] for case in cases}) == 5
    broken = Counter(name for case in cases for name in case[5])
    assert {"X", "y", "weights"} <= set(broken)
    assert len(broken) > 20
    assert sum(not case[5] for case in cases) > 100
    assert sum("X_val" in case[4] for case in cases) > 3
