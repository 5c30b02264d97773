import pytest
from report_samples import HOSTILE, make_outcome

from keelback.outcome import Outcome


@pytest.fixture
def outcome() -> Outcome:
    return make_outcome()


@pytest.fixture
def hostile() -> Outcome:
    return make_outcome(HOSTILE, HOSTILE)
