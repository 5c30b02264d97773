"""The causal convolution on a GPU, as the host's tests and beyond."""

from itertools import product

import pytest
import torch
from conv_cases import ConvCase, defined, errors_of
from conv_step_cases import CASES, ConvStep, require_exact
from cuda_cases import TOLERANCE

from keelback.conv import causal_conv1d, causal_conv1d_update

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIZES = [
    {"length": 70},
    {"batch": 3, "length": 1, "channels": 8},
    {"length": 37, "channels": 20, "width": 3, "gap": 4},
    {"length": 129, "channels": 35, "width": 2, "gap": 35},
    {"batch": 1, "length": 2, "channels": 64, "width": 9},
    {"batch": 1, "length": 5000, "channels": 1536, "gap": 1536},
    {"replicas": 3, "length": 333, "channels": 24},
    {"length": 333, "channels": 24, "biased": False},
    {"length": 333, "channels": 24, "apart": True},
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("size", "silu"), list(product(SIZES, [True, False])), ids=str)
def test_output_and_gradients(size: dict[str, int], silu: bool, dtype: torch.dtype) -> None:
    # What earlier tensors left behind must not matter.
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    errors = errors_of(ConvCase(dtype=dtype, silu=silu, **size), "cuda")
    assert max(errors.values()) < TOLERANCE[dtype], errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_in_half_precision(dtype: torch.dtype) -> None:
    errors = errors_of(ConvCase(dtype=dtype, tap=dtype, length=333, channels=64), "cuda")
    assert max(errors.values()) < TOLERANCE[dtype], errors


def test_the_public_function_and_its_gradients() -> None:
    x, weight, bias, dy = ConvCase(channels=40, gap=40).operands("cuda")
    leaves = [one[0].detach().requires_grad_() for one in (x, weight, bias)]
    y = causal_conv1d(*leaves, "silu")
    assert isinstance(y, torch.Tensor)
    found = (y, *torch.autograd.grad(y, leaves, dy[0]))
    precise = [one.double().requires_grad_() for one in (x, weight, bias)]
    expected = defined(*precise, True)
    wanted = (expected, *torch.autograd.grad(expected, precise, dy.double()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b[0], rtol=1e-4, atol=1e-5)


def test_under_compile_and_vmap() -> None:
    x, weight, bias, _ = ConvCase(replicas=3).operands("cuda")
    expected = defined(x.double(), weight.double(), bias.double(), True)

    def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y = causal_conv1d(x, weight, bias, "silu")
        assert isinstance(y, torch.Tensor)
        return y

    mapped = torch.func.vmap(conv)(x, weight, bias)
    torch.testing.assert_close(mapped.double(), expected, rtol=1e-5, atol=1e-5)
    compiled = torch.compile(conv, backend="aot_eager")(x[0], weight[0], bias[0])
    torch.testing.assert_close(compiled.double(), expected[0], rtol=1e-5, atol=1e-5)


LARGE = [ConvStep(batch=300, channels=1792, dtype=torch.bfloat16, axis=True)]


@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_a_step(case: ConvStep) -> None:
    require_exact(*case.operands("cuda"), case.silu)


def test_steps_in_a_cuda_graph_and_compiled() -> None:
    x, state, weight, bias = ConvStep(dtype=torch.bfloat16).operands("cuda")
    expected, seen = state.clone(), state.clone()
    for _ in range(3):
        y = causal_conv1d_update(x, expected, weight, bias, "silu")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        causal_conv1d_update(x, state.clone(), weight, bias, "silu")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = causal_conv1d_update(x, state, weight, bias, "silu")
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(state, expected)
    assert torch.equal(found, y)
    compiled = torch.compile(causal_conv1d_update, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        found = compiled(x, seen, weight, bias, "silu")
    assert torch.equal(seen, expected)
    torch.testing.assert_close(found, y, rtol=1e-2, atol=1e-2)
