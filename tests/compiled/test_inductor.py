"""Operators under PyTorch's default compiler, which relies on where results say that they lie."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_kernels import COMPILER
from operator_calls import CASES
from torch import Tensor
from torch.torch_version import TorchVersion

from keelback.compiled.sources import SOURCES, state_of
from keelback.errors import InputError

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs g++"),
    pytest.mark.filterwarnings("error:.*alias.*:UserWarning"),
]


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


@pytest.fixture(scope="module")
def one_node() -> None:
    """Skips where the compiler takes every graph for one that is exported."""

    @torch.compile(backend="eager", fullgraph=True)
    def seems_exported(x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_exporting() else x

    if seems_exported(torch.zeros(1)):
        pytest.skip("PyTorch 2.8 takes what it compiles for exported")


@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize("name", CASES)
def test_a_call_is_one_node_of_a_compiled_graph(name: str) -> None:
    function, given = CASES[name]
    nodes = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        nodes.extend(node for node in graph.graph.nodes if "keelback" in str(node.target))
        return graph.forward

    compiled = torch.compile(lambda *x: function(*x), backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(*given), function(*given))
    [node] = nodes
    assert node.target == getattr(torch.ops.keelback, f"{name}_call")
    assert node.args[-1] == SOURCES  # By which PyTorch's caches tell it from older code.


def test_other_sources_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "room/operator.py"
    file.parent.mkdir()
    found = []
    for text, time in (("y = x", 1), ("y = x", 1), ("y = 2 * x", 1), ("y = z", 2)):
        file.write_text(text)
        os.utime(file, (time, time))
        found.append(state_of(tmp_path))
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize("name", CASES)
def test_a_compiler_names_what_does_not_fit(name: str) -> None:
    function, (*others, last) = CASES[name]
    compiled = torch.compile(lambda *x: function(*x), backend="eager", fullgraph=True)
    with pytest.raises(InputError) as refused:
        function(*others, last[..., :-1])
    name, _ = str(refused.value).split(" has shape ")  # Compilers may call sizes s0, s1.
    with pytest.raises(Exception, match=rf"{name} has shape .*; it should be"):
        compiled(*others, last[..., :-1])


@pytest.mark.parametrize("name", CASES)
def test_where_a_graph_may_break_an_operand_that_does_not_fit_raises_as_usual(name: str) -> None:
    function, (*others, last) = CASES[name]
    compiled = torch.compile(lambda *x: function(*x), backend="eager")
    with pytest.raises(InputError) as usual:
        function(*others, last[..., :-1])
    with pytest.raises(InputError) as found:
        compiled(*others, last[..., :-1])
    assert str(found.value) == str(usual.value)


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


def test_operators_do_not_load_the_compiler() -> None:
    """It takes seconds, and most calls are not compiled."""
    loads = "import sys, torch; {}; print('torch._dynamo' in sys.modules)"
    found = [
        subprocess.run(
            [sys.executable, "-c", loads.format(what)], capture_output=True, text=True, check=True
        ).stdout
        for what in ("pass", "import keelback.delta, keelback.scan, keelback.norm, keelback.conv")
    ]
    assert found[0] == found[1]
