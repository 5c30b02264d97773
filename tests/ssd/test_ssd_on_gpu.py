"""The GPU backend on a GPU, over a grid of sizes, types and options, and beyond."""

from itertools import product
from typing import Any

import pytest
import torch
from ssd_cases import DIFFERENTIABLE, Case, errors_of, make_operands, tolerance
from torch import Tensor

from keelback.compiled.layouts import signature_of
from keelback.ssd import cuda, ssd
from keelback.ssd.cuda.launch import CudaSsd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIZES = [
    {},
    {"batch": 1, "length": 1, "heads": 2, "head_dim": 64, "state": 128},
    {"length": 300, "heads": 4, "groups": 2, "head_dim": 64, "state": 128},
    {"batch": 1, "length": 200, "heads": 2, "head_dim": 80, "state": 48},
    {"batch": 1, "length": 129, "heads": 2, "head_dim": 128, "state": 256},
    {"batch": 1, "length": 97, "heads": 2, "head_dim": 256, "state": 64},
    {"batch": 1, "length": 64, "heads": 1, "head_dim": 20, "state": 100},
    {"batch": 1, "length": 700, "heads": 5, "head_dim": 32, "state": 32},
    {"batch": 1, "length": 700, "heads": 5, "head_dim": 64, "state": 40},
]
OPTIONS = [
    {},
    {"z": True, "initial": True, "reset": True, "D": "number"},
    {"D": None, "bias": False, "softplus": False, "dt_limit": (0.1, 0.4)},
]
OPERANDS = 10
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = [
    Case(dtype=dtype, **size, **options) for dtype, size, options in product(DTYPES, SIZES, OPTIONS)
]


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    return call_of(arguments[:OPERANDS], arguments[OPERANDS:]).forward(arguments[:OPERANDS], False)


def run_backward(dy: Tensor, dlast: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    operands = arguments[:OPERANDS]
    return call_of(operands, arguments[OPERANDS:]).backward((dy, dlast), (), operands)


def call_of(operands: tuple[Any, ...], options: tuple[Any, ...]) -> CudaSsd:
    found = cuda.prepare(signature_of(operands), options)
    assert isinstance(found, CudaSsd)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients(case: Case) -> None:
    # What earlier tensors left behind must not matter.
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    errors = errors_of(case, run_forward, run_backward, "cuda")
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.parametrize("heads", [3, 64])
def test_a_forward_pass_gives_the_same_bits_each_time(heads: int) -> None:
    case = Case(batch=4, length=1000, heads=heads, head_dim=64, state=128, dtype=torch.bfloat16)
    *operands, softplus, limits = make_operands(case, "cuda").values()
    first = run_forward(*operands, softplus, *limits)
    for _ in range(20):
        for x, y in zip(run_forward(*operands, softplus, *limits), first, strict=True):
            assert torch.equal(x, y)


def test_a_million_steps_in_one_call() -> None:
    length, tail = 1_000_000, 3000
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    x, dt = normal(1, length, 2, 16), normal(1, length, 2).abs() * 0.1
    A = -torch.ones(2, device="cuda")
    B, C = (normal(1, length, 1, 16) for _ in range(2))
    y = ssd(x, dt, A, B, C)
    ends = [one[:, -tail:].double() for one in (x, dt, B, C)]
    expected = ssd(ends[0], ends[1], A.double(), *ends[2:])
    assert isinstance(y, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    found, wanted = y[:, -tail // 3 :], expected[:, -tail // 3 :]
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_compiled_and_mapped_calls_agree_with_plain_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 150, 4, 32, generator=generator).cuda()
    dt = torch.rand(2, 150, 4, generator=generator).cuda()
    A = -torch.rand(3, 4, generator=generator).cuda()
    B, C = (torch.randn(2, 150, 2, 16, generator=generator).cuda() for _ in range(2))
    plain = [ssd(x[i], dt, A[i], B, C) for i in range(3)]
    compiled = torch.compile(ssd, fullgraph=True)(x[0], dt, A[0], B, C)
    assert torch.equal(compiled, plain[0])
    mapped = torch.vmap(ssd, in_dims=(0, None, 0, None, None))(x, dt, A, B, C)
    torch.testing.assert_close(mapped, torch.stack(plain))
    shared = torch.vmap(ssd, in_dims=(0, None, None, None, None))(x, dt, A[0], B, C)
    torch.testing.assert_close(shared[1], ssd(x[1], dt, A[0], B, C))


def test_replaying_a_cuda_graph_reads_new_numbers() -> None:
    case = Case(length=300, head_dim=64, state=128, dtype=torch.bfloat16)
    given = make_operands(case, "cuda")
    x = given.pop("x")

    def run() -> Any:
        return ssd(x, return_final_states=True, **given)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, last = run()
    x.copy_(x.flip(1))
    graph.replay()
    expected, expected_last = run()
    assert torch.equal(y, expected)
    assert torch.equal(last, expected_last)


def test_gradients_through_a_graph_of_autograd_are_those_of_the_operator() -> None:
    case = Case(length=130, groups=3, z=True, initial=True, reset=True, dtype=torch.bfloat16)
    given = make_operands(case, "cuda")
    leaves = {name: x.requires_grad_() for name, x in given.items() if name in DIFFERENTIABLE}
    y, last = ssd(**{**given, **leaves}, return_final_states=True)
    found = torch.autograd.grad(y.float().square().sum() + last.sum(), list(leaves.values()))
    *tensors, softplus, limits = given.values()
    plain = [None if x is None else x.detach() for x in tensors]
    dy, dlast = (2 * y.float()).to(y.dtype), torch.ones_like(last)
    expected = run_backward(dy.detach(), dlast, *plain, softplus, *limits)
    for name, ours, theirs in zip(leaves, found, expected, strict=True):
        assert torch.equal(ours, theirs), name


def test_a_backward_pass_in_a_thread_of_autograd_finds_its_context() -> None:
    """The thread may have no context yet, where the forward pass described other addresses."""
    for length in (200, 300, 400):
        case = Case(length=length, head_dim=64, state=128, dtype=torch.bfloat16)
        given = make_operands(case, "cuda")
        leaves = [x.requires_grad_() for name, x in given.items() if name in ("x", "B", "C")]
        gradients = torch.autograd.grad(ssd(**given).float().sum(), leaves)
        assert all(x.isfinite().all() for x in gradients)
