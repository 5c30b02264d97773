"""For tests of many thousand sets."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """Without the checks of annotations, which take four times as long as what is tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
