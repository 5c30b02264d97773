"""Tiny random models of every family that the adapters know, built from configurations."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from keelback.benchmarks.families import FAMILIES, VOCAB, build
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")

COMPLETE = (5, 24)
"""The first release of transformers that has every family of the tests."""


def build_or_skip(family: str) -> nn.Module:
    """A tiny model; the test is skipped where the release of transformers is too old for it."""
    try:
        return build(family)
    except InputError as error:
        release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        if release >= COMPLETE:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], nn.Module]:
    """Builds a model of the named family; the same one each time in a session."""
    made: dict[str, nn.Module] = {}

    def made_once(family: str) -> nn.Module:
        if family not in made:
            made[family] = build_or_skip(family)
        return made[family]

    return made_once


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture
def model(family: str, tiny_model: Callable[[str], nn.Module]) -> nn.Module:
    """A tiny random model of `family`."""
    return tiny_model(family)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two sequences of 40 tokens, a length that no chunk size divides."""
    return torch.randint(3, VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
