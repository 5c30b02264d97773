"""A decoding step on a GPU against float64 on the CPU."""

from typing import Any

import pytest
import torch
from cuda_cases import TOLERANCE, relative_error
from step_cases import BF16, CASES, F32, make_step, run_step

from keelback.scan import selective_scan_step

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
    found = run_step(**on_gpu, delta_softplus=True, in_place=in_place)
    assert found is not None
    y, state = found
    coarse = on_gpu["state"].dtype if in_place else on_gpu["A"].dtype
    assert relative_error(y.cpu(), expected_y) < TOLERANCE[y.dtype]
    assert relative_error(state.cpu(), expected_state) < TOLERANCE[coarse]
    assert (state is on_gpu["state"]) == in_place


def test_gradients_go_through_a_step() -> None:
    given = make_step()
    leaves = [x.cuda().requires_grad_() for x in given.values()]
    y, state = selective_scan_step(*leaves, delta_softplus=True)
    found = torch.autograd.grad(y.sum() + (state**2).sum(), leaves)
    precise = [x.double().requires_grad_() for x in given.values()]
    y, state = selective_scan_step(*precise, delta_softplus=True)
    expected = torch.autograd.grad(y.sum() + (state**2).sum(), precise)
    errors = [relative_error(a.cpu(), b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) < TOLERANCE[F32]


def test_a_step_is_mapped_and_compiled() -> None:
    given = [x.cuda() for x in make_step().values()]
    y, _ = selective_scan_step(*given, delta_softplus=True)
    doubled = [torch.stack([x, x]) for x in given]
    mapped, _ = torch.vmap(lambda *x: selective_scan_step(*x, delta_softplus=True))(*doubled)
    compiled = torch.compile(selective_scan_step, backend="aot_eager")
    for same in (mapped[1], compiled(*given, delta_softplus=True)[0]):
        torch.testing.assert_close(same, y)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_a_step_on_another_gpu_leaves_the_current_one() -> None:
    given = {name: x.to("cuda:1") for name, x in make_step().items()}
    with torch.cuda.device(0):
        found = run_step(**given, delta_softplus=True, in_place=True)
        assert torch.cuda.current_device() == 0
    assert found is not None
    assert found[0].device.index == 1


def test_a_step_waits_for_what_is_before_it_on_its_stream() -> None:
    given = {name: x.cuda() for name, x in make_step(64, 1536).items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        given["u"] = torch.zeros_like(given["u"])
        torch.cuda._sleep(10_000_000)
        given["u"].add_(1.0)
        found = run_step(**given, delta_softplus=True, in_place=False)
    torch.cuda.current_stream().wait_stream(stream)
    assert found is not None
    cpu = {name: x.cpu().double() for name, x in given.items()}
    expected, _ = selective_scan_step(**cpu, delta_softplus=True)
    assert relative_error(found[0].cpu(), expected) < TOLERANCE[F32]
