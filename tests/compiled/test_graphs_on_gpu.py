"""Operators in CUDA graphs: captured by hand, and by `torch.compile` with reduced overhead."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from keelback.benchmarks.call_speed import OPERATORS, SHAPES, STEPS
from keelback.benchmarks.scan_peers import Call
from keelback.benchmarks.ssd_speed import captured
from keelback.conv import causal_conv1d
from keelback.delta import delta_rule
from keelback.recurrence import diagonal_recurrence
from keelback.ssd import gated_linear_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # A registered operator's results must share no memory.
    pytest.mark.filterwarnings("error:.*alias.*:UserWarning"),
]

DTYPES = [torch.float32, torch.bfloat16]


def normal(seed: int, *size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator).to("cuda", dtype)


def of_benchmark(name: str, dtype: torch.dtype) -> Call:
    return OPERATORS[name](SHAPES["cuda"], "cuda", dtype).ours


def of_delta_rule(dtype: torch.dtype, length: int = 300, channels: bool = False) -> Call:
    q, k, v, dy = (normal(seed, 2, length, 4, 64, dtype=dtype) for seed in range(4))
    g = -normal(4, 2, length, 4, *([64] if channels else []), dtype=torch.float32).abs()
    beta = normal(5, 2, length, 4, dtype=torch.float32).sigmoid()
    return Call((q, k, v, g, beta), dy, partial(delta_rule, normalise=True))


def of_linear_attention(dtype: torch.dtype) -> Call:
    q, k, v, dy = (normal(seed, 2, 300, 4, 64, dtype=dtype) for seed in range(4))
    g = -normal(4, 2, 300, 4, dtype=torch.float32).abs()
    return Call((q, k, v, g), dy, gated_linear_attention)


def of_diagonal(dtype: torch.dtype) -> Call:
    decay, x, dy = (normal(seed, 2, 300, 64, dtype=dtype) for seed in range(3))
    return Call((decay.sigmoid(), x), dy, diagonal_recurrence)


def of_odd_convolution(dtype: torch.dtype) -> Call:
    """The gradients of its weights end where no 16 bytes begin."""
    x, dy = (normal(seed, 2, 60, 35, dtype=dtype) for seed in range(2))
    leaves = (x, normal(2, 35, 3, dtype=dtype), normal(3, 35, dtype=dtype))
    return Call(leaves, dy, partial(causal_conv1d, activation="silu"))


CASES: dict[str, Callable[[torch.dtype], Call]] = {
    **{name: partial(of_benchmark, name) for name in OPERATORS if name not in STEPS},
    "causal_conv1d of 35 channels": of_odd_convolution,
    "delta_rule": of_delta_rule,
    "delta_rule in segments": partial(of_delta_rule, length=5000),
    "delta_rule by channel": partial(of_delta_rule, channels=True),
    "gated_linear_attention": of_linear_attention,
    "diagonal_recurrence": of_diagonal,
}
each = pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in CASES for dtype in DTYPES], ids=str
)


@pytest.fixture(autouse=True)
def _no_graph_of_another_test() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def changed(one: Call) -> None:
    one.leaves[0].copy_(one.leaves[0].flip(0))


def require_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    allowed = 1e-4 if dtype == torch.float32 else 2e-2
    difference = (found.double() - expected.double()).norm()
    assert float(difference) <= allowed * float(expected.double().norm())


@each
def test_a_replay_reads_what_the_inputs_are_now(name: str, dtype: torch.dtype) -> None:
    one = CASES[name](dtype)
    outputs: list[Any] = []
    graph = captured(lambda: outputs.append(one.forward()), 1)
    for _ in range(2):
        changed(one)
        graph.replay()
        require_near(outputs[-1], one.forward(), dtype)


@each
def test_compiled_with_reduced_overhead(name: str, dtype: torch.dtype) -> None:
    one = CASES[name](dtype)
    compiled = torch.compile(one.run, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):  # The graph is made of a later call than the first.
        changed(one)
        with torch.no_grad():
            require_near(compiled(*one.leaves), one.forward(), dtype)
    assert counters["inductor"]["cudagraph_skips"] == 0


@each
def test_gradients_compiled_with_reduced_overhead(name: str, dtype: torch.dtype) -> None:
    one = CASES[name](dtype)
    compiled = torch.compile(one.run, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):
        changed(one)
        leaves = tuple(x.detach().requires_grad_() for x in one.leaves)
        torch.compiler.cudagraph_mark_step_begin()
        found = torch.autograd.grad(compiled(*leaves), leaves, one.dy)
        expected = torch.autograd.grad(one.run(*leaves), leaves, one.dy)
        for ours, theirs in zip(found, expected, strict=True):
            require_near(ours, theirs, dtype)
    assert counters["inductor"]["cudagraph_skips"] == 0
