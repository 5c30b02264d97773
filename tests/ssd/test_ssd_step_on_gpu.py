"""A decoding step on a GPU against float64, over a grid of sizes and types, and beyond."""

from typing import Any

import pytest
import torch
from ssd_cases import relative_error
from ssd_step_cases import BF16, CASES, F16, TOLERANCE, exact_step, make_step, require_exact

from keelback.scan import selective_state_update
from keelback.ssd import ssd_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

MANY = {"heads": 128, "head_dim": 80, "states": 128, "groups": 8}
HALF = {"dtype": BF16, "kept": BF16, "parameters": BF16}
LARGE: dict[str, dict[str, Any]] = {
    "many sequences": {"batch": 130, "heads": 24, "head_dim": 64, "states": 128, "dtype": BF16},
    "many heads, states in half precision": {"batch": 5, **MANY, **HALF},
    "many of 256 states": {"batch": 40, "heads": 32, "head_dim": 64, "states": 256, "dtype": F16},
    "many of odd sizes": {"batch": 64, "heads": 30, "head_dim": 50, "states": 77, "D": "number"},
}


def on_gpu(given: dict[str, Any]) -> dict[str, Any]:
    return {n: x.cuda() if isinstance(x, torch.Tensor) else x for n, x in given.items()}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("options", [*CASES.values(), *LARGE.values()], ids=[*CASES, *LARGE])
def test_a_step_is_that_of_the_definition(options: dict[str, Any], in_place: bool) -> None:
    # What earlier tensors left behind must not matter.
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    require_exact(on_gpu(make_step(**options)), in_place)


def test_steps_in_a_cuda_graph_go_on_from_each_other() -> None:
    given = on_gpu(make_step(batch=2, heads=24, head_dim=64, states=128, dtype=BF16))
    states, x, dt, A, B, C, D, z, bias, softplus, _ = given.values()
    repeated = (dt[..., None].expand(x.shape), A[:, None, None].expand(*x.shape[1:], B.shape[-1]))
    others = (D[:, None].expand(x.shape[1:]), z, bias[:, None].expand(x.shape[1:]), softplus)
    expected, (y, ours) = states.clone(), ssd_step(**given)
    for _ in range(4):
        y_expected, expected = ssd_step(**{**given, "states": expected})
    kept = states.clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        selective_state_update(kept, x, *repeated, B, C, *others)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        y = selective_state_update(kept, x, *repeated, B, C, *others)
    kept.copy_(ours)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(kept, expected)
    assert torch.equal(y, y_expected)


def test_gradients_go_through_a_step_and_it_is_mapped_and_compiled() -> None:
    given = on_gpu(make_step())
    y, after = ssd_step(**given)
    leaves = {n: x.requires_grad_() for n, x in given.items() if isinstance(x, torch.Tensor)}
    watched, watched_after = ssd_step(**{**given, **leaves})
    torch.testing.assert_close(watched, y)
    (watched.sum() + watched_after.sum()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves.values())
    plain = {n: x.detach() if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    doubled = torch.stack([plain.pop("states")] * 2)
    mapped, _ = torch.vmap(lambda states: ssd_step(states, **plain))(doubled)
    torch.testing.assert_close(mapped[1], y)
    compiled = torch.compile(ssd_step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(doubled[0], **plain)[1], after)


def test_a_step_waits_for_what_is_before_it_on_its_stream() -> None:
    given = on_gpu(make_step(batch=64, heads=24, head_dim=64))
    expected, _ = exact_step({**given, "x": torch.ones_like(given["x"])})
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        given["x"] = torch.zeros_like(given["x"])
        torch.cuda._sleep(10_000_000)
        given["x"].add_(1.0)
        found, _ = ssd_step(**given)
    torch.cuda.current_stream().wait_stream(stream)
    assert relative_error(found.cpu(), expected) < TOLERANCE[found.dtype]
