"""The gated norm on a GPU, as the host's tests and beyond."""

from itertools import product
from typing import Any

import pytest
import torch
from norm_cases import NormCase, defined, errors_of, tolerance
from test_norm_kernels_on_host import CASES
from torch import Tensor

from keelback.compiled.layouts import signature_of
from keelback.norm import gated_rms_norm
from keelback.norm._operands import NormOperands, NormOptions
from keelback.norm.cuda import launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIZES: list[dict[str, Any]] = [
    {"channels": 1536, "rows": (8, 300), "gap": 256},
    {"channels": 1536, "rows": (8, 301), "group_size": 192},
    {"channels": 128, "rows": (3, 500, 16), "gap": 128},
    {"channels": 5120, "rows": (700,)},
    {"channels": 4100, "rows": (700,)},
    {"channels": 8192, "rows": (1000,)},
    {"channels": 16384, "rows": (500,)},
    {"channels": 1001, "rows": (1000,), "gap": 1},
    {"channels": 64, "rows": (50, 4), "replicas": 5},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm_before_gate": True, "activation": "sigmoid"},
    {"rounded": True, "promoted": True, "weight": torch.float32},
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GRID = [
    NormCase(dtype=dtype, **size, **options)
    for dtype, size, options in product(DTYPES, SIZES, OPTIONS)
]


def by_kernels(
    given: NormOperands[Tensor], dy: Tensor, options: NormOptions
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Output and gradients."""
    call = launch.prepare(signature_of(given), options)
    y, scales = call.forward(given, True)
    return y, call.backward((dy,), (scales,), given)


@pytest.mark.parametrize("case", [*CASES, *GRID], ids=str)
def test_output_and_gradients(case: NormCase) -> None:
    # What earlier tensors left behind must not matter.
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    errors = errors_of(case, by_kernels, "cuda")
    assert max(errors.values()) < tolerance(case), errors


def test_gradients_are_the_same_each_time() -> None:
    given, dy = NormCase(1536, (8, 300), dtype=torch.bfloat16).operands("cuda")
    once, again = (by_kernels(given, dy, NormCase().options)[1] for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_the_public_function_and_its_gradients() -> None:
    case = NormCase(40, gap=40)
    given, dy = case.operands("cuda")
    leaves: Any = NormOperands(*(x.detach().requires_grad_() for x in given if x is not None))
    precise: Any = NormOperands(*(x.detach().double().requires_grad_() for x in leaves))
    y, expected = gated_rms_norm(*leaves), defined(case, precise)
    found = (y, *torch.autograd.grad(y, leaves, dy))
    wanted = (expected, *torch.autograd.grad(expected, precise, dy.double()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_under_compile_and_vmap() -> None:
    case = NormCase(replicas=3)
    given, _ = case.operands("cuda")
    expected = defined(case, NormOperands(*(x.double() for x in given if x is not None)))
    mapped = torch.func.vmap(gated_rms_norm)(*given)
    torch.testing.assert_close(mapped.double(), expected, rtol=1e-5, atol=1e-5)
    compiled = torch.compile(gated_rms_norm, backend="aot_eager", fullgraph=True)
    found = compiled(*(x[0] for x in given if x is not None))
    torch.testing.assert_close(found.double(), expected[0], rtol=1e-5, atol=1e-5)


def test_in_a_cuda_graph() -> None:
    given, _ = NormCase(1536, (4, 60), dtype=torch.bfloat16).operands("cuda")
    expected = gated_rms_norm(*given)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        gated_rms_norm(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = gated_rms_norm(*given)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)
