"""Operators under PyTorch's default compiler, which relies on where results say that they lie."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_kernels import COMPILER
from torch import Tensor
from torch.torch_version import TorchVersion

from keelback.conv import causal_conv1d
from keelback.delta import delta_rule
from keelback.errors import InputError
from keelback.norm import gated_rms_norm
from keelback.scan import selective_scan
from keelback.ssd import ssd

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs g++"),
    pytest.mark.filterwarnings("error:.*alias.*:UserWarning"),
]


def normal(seed: int, *size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return causal_conv1d(x, weight, bias, "silu")


X = normal(0, 2, 9, 6)
HEADS = [normal(seed, 2, 9, 2, 8) for seed in range(3)]
CASES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "selective_scan": (
        selective_scan,
        (X, X.abs(), -normal(1, 6, 3).abs(), normal(2, 2, 9, 1, 3), normal(3, 2, 9, 1, 3)),
    ),
    "causal_conv1d": (convolved, (X, normal(1, 6, 4), normal(2, 6))),
    "gated_rms_norm": (gated_rms_norm, (X, normal(1, 2, 9, 6), normal(2, 6))),
    "ssd": (
        ssd,
        (HEADS[0], normal(4, 2, 9, 2).abs(), -normal(5, 2).abs(), HEADS[1], HEADS[2]),
    ),
    "delta_rule": (
        delta_rule,
        (*HEADS, -normal(4, 2, 9, 2).abs(), normal(5, 2, 9, 2).sigmoid()),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_through_the_default_compiler(name: str) -> None:
    function, given = CASES[name]
    leaves = [x.clone().requires_grad_() for x in given]

    def loss(*operands: Tensor) -> Tensor:
        return function(*operands).square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other in zip(found, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_one_node_of_a_compiled_graph(name: str) -> None:
    function, given = CASES[name]
    targets = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        targets.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    compiled = torch.compile(lambda *x: function(*x), backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(*given), function(*given))
    ours = [target for target in targets if "keelback" in str(target)]
    assert ours == [getattr(torch.ops.keelback, f"{name}_call")]


@pytest.mark.parametrize("name", CASES)
def test_a_compiler_names_what_does_not_fit(name: str) -> None:
    function, (*others, last) = CASES[name]
    compiled = torch.compile(lambda *x: function(*x), backend="eager", fullgraph=True)
    with pytest.raises(InputError) as refused:
        function(*others, last[..., :-1])
    name, _ = str(refused.value).split(" has shape ")  # Compilers may call sizes s0, s1.
    with pytest.raises(Exception, match=rf"InputError.*{name} has shape .*; it should be"):
        compiled(*others, last[..., :-1])


@pytest.mark.skipif(
    TorchVersion(torch.__version__) < (2, 13), reason="PyTorch 2.13 first compiles such batches"
)
def test_batches_inside_a_compiled_function_are_one_call() -> None:
    function, (u, *others) = CASES["selective_scan"]
    many = torch.stack([u, 2 * u])

    def batched(u: Tensor) -> Tensor:
        return torch.func.vmap(lambda one: function(one, *others))(u)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.compile(batched, fullgraph=True)(many)
    torch.testing.assert_close(found, batched(many))
