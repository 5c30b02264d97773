"""Scans and convolutions in exported, scripted, traced and compiled programs, and without data."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim, export

from keelback.conv import causal_conv1d, causal_conv1d_update
from keelback.errors import InputError
from keelback.scan import mamba_inner, selective_scan, selective_scan_step


class Convolved(torch.nn.Module):
    """A convolution and a scan, one function after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.A = torch.nn.Parameter(-torch.rand(4, 4))
        self.weight = torch.nn.Parameter(torch.randn(4, 4))
        self.D = torch.nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        u = causal_conv1d(x, self.weight, self.D, "silu")
        maps = u.unsqueeze(2)
        return selective_scan(u, u, self.A, maps, maps, self.D, x, self.D, True)


class Inner(Convolved):
    """The inside of a Mamba block."""

    def __init__(self) -> None:
        super().__init__()
        self.W_x = torch.nn.Parameter(torch.randn(2 + 8, 4))
        self.W_delta = torch.nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        projections = self.W_x, self.W_delta
        return mamba_inner(x, x, self.weight, self.D, *projections, self.A, self.D, self.D)


MODELS = [Convolved, Inner]


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: an exported product may add up in another order."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("length", [Dim("length", min=1, max=1 << 20), Dim.AUTO], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_a_program_is_exported_for_any_length(
    model: type[Convolved], length: Any, gradients: bool, strict: bool
) -> None:
    run = model()
    with torch.set_grad_enabled(gradients):
        shapes = ({0: Dim.AUTO, 1: length},)
        program = export(run, (torch.randn(3, 100, 4),), dynamic_shapes=shapes, strict=strict)
    for size in (2, 63, 64, 65, 700):
        x = torch.randn(5, size, 4, requires_grad=True)
        y, expected = program.module()(x), run(x)
        assert_same(y, expected)
        (found,) = torch.autograd.grad(y.sum(), x)
        assert_same(found, torch.autograd.grad(expected.sum(), x)[0])
    if length is not Dim.AUTO:  # Which takes one step for a constant, by its own rule.
        assert program.module()(torch.randn(2, 1, 4)).shape == (2, 1, 4)


@pytest.mark.parametrize("model", MODELS)
def test_a_trace_is_for_other_lengths_and_for_gradients(model: type[Convolved]) -> None:
    run = model()
    traced = torch.jit.trace(run, (torch.randn(2, 30, 4),))
    x = torch.randn(3, 333, 4, requires_grad=True)
    assert_same(traced(x), run(x))
    (found,) = torch.autograd.grad(traced(x).sum(), x)
    assert_same(found, torch.autograd.grad(run(x).sum(), x)[0])


@pytest.mark.parametrize("model", MODELS)
def test_a_scripted_model_is_saved_and_differentiated(model: type[Convolved]) -> None:
    run = model()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(run), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    x = torch.randn(3, 33, 4, requires_grad=True)
    assert_same(scripted(x), run(x))
    (found,) = torch.autograd.grad(scripted(x).sum(), x)
    assert_same(found, torch.autograd.grad(run(x).sum(), x)[0])


def test_a_script_is_told_that_there_is_no_last_state() -> None:
    def scanned(u: Tensor, A: Tensor) -> Tensor:
        return selective_scan(u, u, A, u.unsqueeze(2), u.unsqueeze(2), return_last_state=True)

    def convolved(u: Tensor, A: Tensor) -> Tensor:
        return causal_conv1d(u, A, return_last_state=True)

    for function in (scanned, convolved):
        with pytest.raises(Exception, match="returns y alone: no return_last_state"):
            torch.jit.script(function)(torch.randn(2, 9, 4), -torch.rand(4, 4))


def test_onnx_is_told_what_would_work() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(InputError, match="ONNX has no causal_conv1d: with backend='reference'"):
        torch.onnx.export(Convolved(), (torch.randn(2, 9, 4),), io.BytesIO(), dynamo=False)


def test_onnx_is_refused_by_every_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    x = torch.randn(2, 9, 4, device="meta")
    A = torch.randn(4, 4, device="meta")
    with pytest.raises(InputError, match="ONNX has no selective_scan"):
        selective_scan(x, x, A, x[:, :, None], x[:, :, None])
    with pytest.raises(InputError, match="ONNX has no causal_conv1d"):
        causal_conv1d(x, A)


def packed(u: Tensor, cu_seqlens: Tensor) -> Tensor:
    A, maps = -torch.ones(4, 4), u.unsqueeze(2)
    initial = torch.ones(1, 4, 4)
    return selective_scan(u, u, A, maps, maps, initial_state=initial, cu_seqlens=cu_seqlens)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_packed_sequences_in_a_compiled_graph(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    u = torch.rand(1, 40, 4)
    for bounds in ([0, 3, 40], [0, 0, 7, 7, 40, 40], [0, 40], [0, 1, 39, 40]):
        given = torch.tensor(bounds, dtype=dtype)
        torch.testing.assert_close(compiled(u, given), packed(u, given))


@pytest.mark.parametrize("bounds", [[0, 50, 40], [1, 40], [0, 39], [0, 9, 5, 40], [0, -1, 40]])
def test_wrong_bounds_in_a_compiled_graph_are_an_error(bounds: list[int]) -> None:
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="cu_seqlens should rise from 0 to the length of u"):
        compiled(torch.rand(1, 40, 4), torch.tensor(bounds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", [None, "reference", "cpu", "cuda"])
def test_without_data_there_are_shapes(backend: str | None, dtype: torch.dtype) -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype, requires_grad=True)

    x, A, maps = empty(2, 5, 4), empty(4, 3), empty(2, 5, 1, 3)
    y, last = selective_scan(x, x, A, maps, maps, return_last_state=True, backend=backend)
    assert (y.shape, y.dtype, last.shape) == (x.shape, dtype, (2, 4, 3))
    assert last.dtype == torch.float32
    (y.float().sum() + last.sum()).backward()
    assert x.grad is not None
    assert x.grad.device.type == "meta"
    weight = empty(4, 4)
    causal_conv1d(x, weight, activation="silu", backend=backend).float().sum().backward()
    assert weight.grad is not None


def test_steps_and_blocks_without_data() -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    x, A = empty(2, 5, 4), empty(4, 3)
    y, state = selective_scan_step(
        empty(2, 4, 3), x[:, 0], x[:, 0], A, empty(2, 1, 3), empty(2, 1, 3)
    )
    assert (y.shape, state.shape) == ((2, 4), (2, 4, 3))
    assert causal_conv1d_update(x[:, 0], empty(2, 4, 3), empty(4, 4)).shape == (2, 4)
    parameters = empty(4, 4), empty(4), empty(8, 4), empty(4, 2), A, empty(4), empty(4)
    assert mamba_inner(x, x, *parameters).shape == x.shape
