"""One sequence over several processes, against the scan of the whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from keelback.errors import InputError
from keelback.scan import selective_scan, selective_scan_across
from scans_across import (
    Found,
    assert_parts_of_one_scan,
    found_by_processes,
    machines,
    part_found,
    whole_found,
)

PARTS = (37, 14, 29)  # of different lengths
CASES = {
    "plain": {},
    "options": {"D": True, "z": True, "bias": True, "initial": True},
    "reset": {"reset": True, "initial": True},
    "one step size for all channels": {"shared": True},
    "unstable": {"unstable": True, "initial": True},
    "forgetful": {"forgetful": True, "initial": True},
    "forgetful, with everything": {"forgetful": True, "initial": True, "D": True, "reset": True},
    "steps back": {"back": True, "initial": True},
}
ALONG = ("u", "delta", "B", "C", "z", "reset")  # cut along the length
SUMMED = ("A", "D", "delta_bias")


def make(case: str, length: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Operands of the whole, and gradients of its output and last state."""
    generator = torch.Generator().manual_seed(0)
    on = CASES[case]
    batch, channels, state = 2, 6, 4

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    operands = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, 1 if "shared" in on else channels) / 2,
        "A": normal(channels, state).abs() * (0.1 if "unstable" in on else -0.2),
        "B": normal(batch, length, 2, state),
        "C": normal(batch, length, 2, state),
    }
    if "forgetful" in on:
        operands["A"] = operands["A"] * 20 - 100  # Nothing is left of a state after some 12 steps.
    if "back" in on:  # Where a rate is positive, a state dies; where it is negative, it lasts.
        operands["delta"] = -30 * operands["delta"].abs() - 30
        operands["A"] = torch.tensor([2.0, -1e-3, -2e-3, -1e-4], dtype=torch.float64).repeat(6, 1)
    if "D" in on:
        operands |= {"D": normal(channels), "z": normal(batch, length, channels)}
        operands["delta_bias"] = normal(channels)
    if "initial" in on:
        operands["initial_state"] = normal(batch, channels, state)
    if "reset" in on:
        operands["reset"] = torch.zeros(batch, length, dtype=torch.bool)
        operands["reset"][0, 40] = True
    return operands, normal(batch, length, channels), normal(batch, channels, state)


def over(scan: Callable[..., Any], case: str) -> Callable[..., Any]:
    softplus = case != "steps back"
    return partial(scan, delta_softplus=softplus, return_last_state=True)


def scan_part(rank: int, case: str, parts: tuple[int, ...], device: str) -> dict[str, Tensor]:
    """What process `rank` finds."""
    made = make(case, sum(parts))
    return part_found(over(selective_scan_across, case), made, ALONG, rank, parts, device)


@pytest.fixture(scope="module", params=machines(PARTS))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    for case in CASES:  # Keeps the kernels on disk; otherwise every process would compile them.
        whole_found(over(selective_scan, case), make(case, sum(PARTS)))
    prepare = "from keelback.scan.cpu import across\nacross._CHUNK = 4"
    return found_by_processes(
        tmp_path_factory.mktemp("across"), Path(__file__), request.param, prepare
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_one_scan(case: str, found: Found) -> None:
    made = make(case, sum(PARTS[: len(found)]))
    parts = [process[case] for process in found]
    assert_parts_of_one_scan(over(selective_scan, case), made, parts, ALONG, SUMMED)


def test_without_processes_it_is_refused() -> None:
    operands, _, _ = make("plain", 5)
    with pytest.raises(InputError, match="no processes to scan across"):
        selective_scan_across(**operands)
