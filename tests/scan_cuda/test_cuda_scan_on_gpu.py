"""The GPU backend on a GPU, as the host's tests and beyond."""

from itertools import product

import pytest
import torch
from cuda_cases import TOLERANCE, Case, errors_of, tolerance

from keelback.scan import selective_scan, selective_scan_step, selective_state_update

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIZES = [
    {"length": 70},
    {"batch": 1, "length": 1, "channels": 8},
    {"length": 37, "channels": 20, "states": 4},
    {"length": 129, "channels": 36, "states": 3, "groups": 2},
    {"batch": 1, "length": 300, "channels": 64, "states": 8, "groups": 4},
    {"length": 65, "channels": 12, "states": 1},
    {"length": 90, "channels": 8, "states": 40},
    {"batch": 1, "length": 33, "channels": 8, "states": 128},
    {"batch": 1, "length": 21, "channels": 8, "states": 256},
    {"length": 64, "channels": 160},
    {"length": 333, "channels": 24, "spans": 5},
]
OPTIONS = [
    {},
    {"z": True, "initial": True, "reset": True, "replicas": 2},
    {"D": False, "bias": False, "softplus": False},
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("size", "options"), list(product(SIZES, OPTIONS)), ids=str)
def test_outputs_and_gradients(
    size: dict[str, int], options: dict[str, bool], dtype: torch.dtype
) -> None:
    # What earlier tensors left behind must not matter.
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    case = Case(dtype=dtype, **size, **options)
    errors = errors_of(case, "cuda")
    assert max(errors.values()) < tolerance(case), errors


def test_a_million_steps_in_one_call() -> None:
    length, tail = 1_000_000, 3000
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, length, 16, generator=generator).cuda()
    delta = torch.rand(1, length, 16, generator=generator).cuda() * 0.1
    A = -torch.arange(1.0, 17).repeat(16, 1).cuda()
    B, C = (torch.randn(1, length, 1, 16, generator=generator).cuda() for _ in range(2))
    y = selective_scan(u, delta, A, B, C)
    ends = [x[:, -tail:].double().cpu() for x in (u, delta, B, C)]
    expected = selective_scan(ends[0], ends[1], A.double().cpu(), *ends[2:])
    assert isinstance(y, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    found, wanted = y[:, -tail // 3 :].cpu(), expected[:, -tail // 3 :]
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_compiled_and_mapped_calls_agree_with_plain_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    operands = [
        torch.randn(2, 50, 32, generator=generator).cuda(),
        torch.rand(2, 50, 32, generator=generator).cuda(),
        -torch.rand(32, 16, generator=generator).cuda(),
        torch.randn(2, 50, 1, 16, generator=generator).cuda(),
        torch.randn(2, 50, 1, 16, generator=generator).cuda(),
    ]
    plain = selective_scan(*operands)
    assert torch.equal(torch.compile(selective_scan, fullgraph=True)(*operands), plain)
    mapped = torch.vmap(selective_scan, in_dims=(0, None, None, None, None))(
        torch.stack([operands[0]] * 3), *operands[1:]
    )
    assert torch.equal(mapped, torch.stack([plain] * 3))


def test_operators_pass_opcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(1, 2, 50, 32, generator=generator),
        torch.rand(1, 2, 50, 32, generator=generator),
        -torch.rand(1, 32, 16, generator=generator),  # Where it is positive, states overflow.
        torch.randn(1, 2, 50, 1, 16, generator=generator),
        torch.randn(1, 2, 50, 1, 16, generator=generator),
    ]
    operands = [x.cuda().requires_grad_() for x in made]
    absent = [None] * 5
    torch.library.opcheck(
        torch.ops.keelback.selective_scan.default, (*operands, *absent, True, True)
    )


@pytest.mark.parametrize("in_place", [True, False])
def test_steps_continue_a_scan(in_place: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    length, prompt = 40, 30
    u, delta, z = (torch.randn(3, length, 64, generator=generator).cuda() for _ in range(3))
    A = -torch.rand(64, 16, generator=generator).cuda()
    B, C = (torch.randn(3, length, 1, 16, generator=generator).cuda() for _ in range(2))
    D, bias = (torch.randn(64, generator=generator).cuda() for _ in range(2))
    whole, _ = selective_scan(u, delta, A, B, C, D, z, bias, True, return_last_state=True)
    u_, delta_, B_, C_, z_ = (x[:, :prompt] for x in (u, delta, B, C, z))
    _, state = selective_scan(u_, delta_, A, B_, C_, D, z_, bias, True, return_last_state=True)
    for t in range(prompt, length):
        step = (u[:, t], delta[:, t], A, B[:, t], C[:, t], D, z[:, t], bias, True)
        if in_place:
            y = selective_state_update(state, *step)
        else:
            y, state = selective_scan_step(state, *step)
        torch.testing.assert_close(y, whole[:, t], rtol=1e-4, atol=1e-4)


def test_a_call_is_captured_in_a_cuda_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(2, 50, 32, generator=generator).cuda()
    delta = torch.rand(2, 50, 32, generator=generator).cuda()
    A = -torch.rand(32, 16, generator=generator).cuda()
    B, C = (torch.randn(2, 50, 1, 16, generator=generator).cuda() for _ in range(2))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # Kernels are compiled and loaded before the capture.
        selective_scan(u, delta, A, B, C)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = selective_scan(u, delta, A, B, C)
    u.copy_(torch.randn(u.shape, generator=generator))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, selective_scan(u, delta, A, B, C))
