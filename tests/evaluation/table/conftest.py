"""Rows of two systems, as the tests of the table change them."""

import pytest


@pytest.fixture
def rows(quality, speed):
    """The teacher's beam at 40 ms and greedy at 20 ms, a fertility NAT at 4 ms."""
    nat = {"method": "FertilityNat", "family": "NAT", "training_data": "distilled", "steps": 1.0}
    return [
        quality("nat", "Argmax()", 27.0, **nat),
        speed("nat", "Argmax()", 4.0, **nat),
        quality("ar", "Greedy()", 33.0),
        speed("ar", "Greedy()", 20.0),
        quality("ar", "Beam(size=4)", 34.0),
        speed("ar", "Beam(size=4)", 40.0),
    ]
