"""A decoding step on a GPU against float64 on the CPU."""

from typing import Any

import pytest
import torch
from cuda_cases import TOLERANCE, relative_error
from step_cases import BF16, CASES, F32, make_step

from keelback.scan import selective_scan_step
from keelback.scan._cuda.step import advance_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

LARGE = {
    "many rows": {"batch": 257, "channels": 1536},
    "many rows, bfloat16": {"batch": 130, "channels": 1536, "dtype": BF16, "kept": BF16},
    "many rows of four states": {"batch": 5000, "channels": 16, "states": 4},
}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("options", [*CASES.values(), *LARGE.values()], ids=[*CASES, *LARGE])
def test_a_step_is_that_of_the_definition(options: dict[str, Any], in_place: bool) -> None:
    given = make_step(**options)
    precise = {name: None if x is None else x.double() for name, x in given.items()}
    expected_y, expected_state = selective_scan_step(**precise, delta_softplus=True)
    on_gpu = {name: None if x is None else x.cuda() for name, x in given.items()}
    found = advance_state(**on_gpu, delta_softplus=True, in_place=in_place)
    assert found is not None
    y, state = found
    coarse = on_gpu["state"].dtype if in_place else on_gpu["A"].dtype
    assert relative_error(y.cpu(), expected_y) < TOLERANCE[y.dtype]
    assert relative_error(state.cpu(), expected_state) < TOLERANCE[coarse]
    assert (state is on_gpu["state"]) == in_place


def test_a_step_waits_for_what_is_before_it_on_its_stream() -> None:
    given = {name: x.cuda() for name, x in make_step(64, 1536).items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        given["u"] = torch.zeros_like(given["u"])
        torch.cuda._sleep(10_000_000)
        given["u"].add_(1.0)
        found = advance_state(**given, delta_softplus=True, in_place=False)
    torch.cuda.current_stream().wait_stream(stream)
    assert found is not None
    cpu = {name: x.cpu().double() for name, x in given.items()}
    expected, _ = selective_scan_step(**cpu, delta_softplus=True)
    assert relative_error(found[0].cpu(), expected) < TOLERANCE[F32]
