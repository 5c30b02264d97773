"""Real numbers of the transcribed definitions have fifty digits."""

from collections.abc import Iterator

import pytest
from mpmath import mp


@pytest.fixture(autouse=True, scope="module")
def fifty_digits() -> Iterator[None]:
    with mp.workdps(50):
        yield
