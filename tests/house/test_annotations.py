"""What tests/conftest.py promises: in these rooms a wrong type does not pass silently."""

from pathlib import Path
from typing import Any

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from keelback.certify import margins
from keelback.experiments import get_experiment
from keelback.sweeps import Store


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        margins(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("call", [lambda: get_experiment(3), lambda: Store.open(3)])  # type: ignore[arg-type]
def test_types_are_checked(call: Any, tmp_path: Path) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        call()
