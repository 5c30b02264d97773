"""Shapes are checked in every test: jaxtyping annotations are enforced by beartype."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Modules of compiled kernels are left alone: their functions are read by a compiler, not by Python.
_hook = install_import_hook(
    ["keelback.models", "keelback.data", "keelback.training", "keelback.bounds"],
    "beartype.beartype",
)

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason="the reference data folder is not here")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data folder; for tests that carry the `shared` marker."""
    return _SHARED
