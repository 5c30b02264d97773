"""Cases for a process whose kernels ThreadSanitizer watches: `python watched_cases.py GROUP`."""

import re
import sys

import conv_cases
import host_kernels
import pytest
import step_cases
import torch
from conv_cases import ConvCase
from cuda_cases import TOLERANCE, Case, errors_of, tolerance
from host_kernels import run_on_host
from step_cases import BF16, make_step

from keelback.compiled.nvrtc import kernel_sources

SCANS = [
    Case(batch=1, length=37, channels=20, z=True, initial=True),
    Case(batch=1, length=70, channels=12, states=4, spans=2, initial=True, reset=True),
]
CONVOLUTIONS = [ConvCase(batch=1), ConvCase(batch=1, channels=5, width=3, dtype=torch.bfloat16)]
STEPS = [make_step(), make_step(states=7, channels=5, dtype=BF16)]


def sources_with_agreed_stores(package: str) -> dict[str, str]:
    """The kernels' sources, with the store atomic by which threads write the same number.

    What reads it without a barrier between is reported all the same.
    """
    sources = dict(kernel_sources(package))
    if "correct.cu" not in sources:
        return sources
    sources["correct.cu"], found = re.subn(
        r"\) shared\.alive_at = (0|index \+ 1);",
        r") __atomic_store_n(&shared.alive_at, \1, __ATOMIC_RELAXED);",
        sources["correct.cu"],
    )
    assert found == 2
    return sources


def run_scans() -> None:
    for case in SCANS:
        errors = errors_of(case)
        assert max(errors.values()) < tolerance(case), errors


def run_convolutions() -> None:
    for case in CONVOLUTIONS:
        errors = conv_cases.errors_of(case)
        assert max(errors.values()) < TOLERANCE[case.dtype], errors


def run_steps() -> None:
    """Out of place: in place, threads past the last row read what they make no use of."""
    for given in STEPS:
        of_y, _ = step_cases.errors_of(given, in_place=False)
        assert of_y < TOLERANCE[given["u"].dtype]


if __name__ == "__main__":
    host_kernels.kernel_sources = sources_with_agreed_stores
    run_on_host(pytest.MonkeyPatch(), processors=1)
    {"scans": run_scans, "convolutions": run_convolutions, "steps": run_steps}[sys.argv[1]]()
