"""The catalogue of faults: what can go wrong in a night, by number, and the tests that show what becomes of it.

A test that is about a fault carries its number, so that `make test ARGS="-k F038"` runs what there is about expired
credentials. `test_catalogue.py` sees to it that no number is without a test, or else without a reason that a user
would accept.
"""

import pytest


def fault(*numbers: int) -> pytest.MarkDecorator:
    """Mark a test as being about faults of the catalogue: their numbers become part of its id.

    Args:
        numbers: From 1 to 126. A test that is about several of them runs once.
    """
    return pytest.mark.parametrize(
        "fault", [None], ids=["-".join(f"F{number:03}" for number in numbers)], indirect=True
    )
