"""The gated norm against its definition in float64, and under PyTorch's transforms."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_cases import NormCase, expected_of
from torch import Tensor
from torch.func import grad, vmap

from keelback.errors import InputError
from keelback.norm import gated_rms_norm
from keelback.norm._op import WIDEST

HALF = (torch.bfloat16, torch.float16)


def by_public_function(case: NormCase, backend: Any = None) -> dict[str, Tensor]:
    """Output and gradients of a case."""
    given, dy = case.operands()
    leaves = [None if x is None else x.detach().requires_grad_() for x in given]
    y = gated_rms_norm(
        *leaves,
        1e-5,
        case.group_size,
        case.norm_before_gate,
        case.activation,
        case.rounded,
        backend=backend,
    )
    present = {
        name: x for name, x in zip(("dx", "dgate", "dweight"), leaves, strict=True) if x is not None
    }
    found = torch.autograd.grad(y, list(present.values()), dy)
    return {"y": y.detach(), **dict(zip(present, found, strict=True))}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(1, 4), max_size=4).map(tuple),
    groups=st.sampled_from([1, 1, 3]),
    count=st.sampled_from([1, 5, 16, 35, 130]),
    gated=st.booleans(),
    weighted=st.booleans(),
    norm_before_gate=st.booleans(),
    activation=st.sampled_from(["silu", "swish", "sigmoid"]),
    gap=st.integers(0, 3),
)
def test_output_and_gradients_are_those_of_the_definition(
    rows: tuple[int, ...],
    groups: int,
    count: int,
    gated: bool,
    weighted: bool,
    norm_before_gate: bool,
    activation: str,
    gap: int,
) -> None:
    case = NormCase(
        groups * count,
        rows,
        count if groups > 1 else None,
        torch.float64,
        gated,
        weighted,
        norm_before_gate,
        activation,
        gap=gap,
    )
    found, expected = by_public_function(case), expected_of(case)
    assert set(found) == set(expected)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x)


@pytest.mark.parametrize("norm_before_gate", [False, True])
def test_many_rows_cut_into_chunks_and_threads(norm_before_gate: bool) -> None:
    case = NormCase(520, (3, 333), gap=7, norm_before_gate=norm_before_gate)
    found, expected = by_public_function(case), expected_of(case)
    for name, x in expected.items():
        assert float((found[name] - x).norm() / x.norm()) < 1e-6, name


@pytest.mark.parametrize("norm_before_gate", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend: str, norm_before_gate: bool) -> None:
    case = NormCase(10, (3,), 5, torch.float64)
    leaves = [x.detach().clone().requires_grad_() for x in case.operands()[0] if x is not None]
    options = (1e-5, 5, norm_before_gate)
    assert torch.autograd.gradcheck(
        lambda *leaves: gated_rms_norm(*leaves, *options, backend=backend), leaves
    )


def test_second_derivatives_of_the_definition() -> None:
    case = NormCase(6, (2,), 3, torch.float64)
    leaves = [x.detach().clone().requires_grad_() for x in case.operands()[0] if x is not None]
    assert torch.autograd.gradgradcheck(
        lambda *leaves: gated_rms_norm(*leaves, group_size=3, backend="reference"), leaves
    )
    y = gated_rms_norm(*leaves, group_size=3)
    found = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.autograd.grad(found[0].square().sum(), leaves)


def test_it_is_pytorchs_norm_without_a_gate() -> None:
    x, weight = torch.randn(5, 3, 24), torch.randn(24)
    expected = F.rms_norm(x, (24,), weight, 1e-5)
    torch.testing.assert_close(gated_rms_norm(x, weight=weight), expected)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("norm_before_gate", [False, True])
def test_half_precision_is_computed_in_float32_and_rounded_where_it_is_said(
    norm_before_gate: bool, rounded: bool, dtype: torch.dtype
) -> None:
    case = NormCase(32, dtype=dtype, rounded=rounded, norm_before_gate=norm_before_gate)
    (x, gate, weight), _ = case.operands()
    assert gate is not None
    assert weight is not None
    found = gated_rms_norm(
        x, gate, weight, norm_before_gate=norm_before_gate, round_before_weight=rounded
    )
    opened = F.silu(gate.float())
    value = x.float() if norm_before_gate else x.float() * opened
    value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-5)
    value = weight * value.to(dtype) if rounded else weight.float() * value
    expected = (value * opened if norm_before_gate else value).to(dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_mixed_widths_are_computed_in_float32() -> None:
    (x, gate, weight), _ = NormCase(32).operands()
    assert gate is not None
    assert weight is not None
    y = gated_rms_norm(x, gate.bfloat16(), weight.half())
    assert y.dtype == torch.float32
    expected = gated_rms_norm(x, gate.bfloat16().float(), weight.half().float())
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 1, 8), (8,)])
def test_few_rows_and_none(shape: tuple[int, ...]) -> None:
    x, gate = torch.randn(2, *shape, requires_grad=True)
    weight = torch.randn(8, requires_grad=True)
    y = gated_rms_norm(x, gate, weight)
    assert y.shape == shape
    dx, dgate, dweight = torch.autograd.grad(y.sum(), [x, gate, weight])
    assert dx.shape == dgate.shape == shape
    assert bool(dweight.any()) == (y.numel() > 0)


def test_a_group_that_is_wider_than_there_are_kernels_is_pytorchs() -> None:
    x = torch.randn(2, WIDEST + 1, dtype=torch.float64)
    found = gated_rms_norm(x, x)
    torch.testing.assert_close(found, gated_rms_norm(x, x, backend="reference"), rtol=0, atol=0)


def test_infinity_and_nan_stay_in_their_group() -> None:
    x, gate = torch.randn(2, 3, 64)
    clean = gated_rms_norm(x, gate, group_size=16)
    x[1, 20], x[2, 3] = torch.inf, torch.nan
    y = gated_rms_norm(x, gate, group_size=16)
    spoilt = torch.zeros(3, 64, dtype=torch.bool)
    spoilt[1, 16:32] = spoilt[2, :16] = True
    assert torch.equal(y[~spoilt], clean[~spoilt])
    assert y[2, :16].isnan().all()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_the_operator_passes_opcheck(gated: bool, keep: bool) -> None:
    case = NormCase(12, (2, 3), dtype=torch.float64, gated=gated)
    leaves = [
        None if x is None else x.detach().clone().unsqueeze(0).requires_grad_()
        for x in case.operands()[0]
    ]
    options = (1e-5, 4, True, False, False, False)
    torch.library.opcheck(torch.ops.keelback.gated_rms_norm, (*leaves, *options, keep))


def loss(x: Tensor, gate: Tensor, weight: Tensor, backend: Any = None) -> Tensor:
    y = gated_rms_norm(x, gate, weight, group_size=4, norm_before_gate=True, backend=backend)
    return (y**2).sum()


def loss_by_definition(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    return loss(x, gate, weight, "reference")


def test_gradients_of_many_models_at_once() -> None:
    """`vmap` of `grad`, over inputs and weights, and with one input or one weight for all."""
    x, gate = torch.randn(2, 3, 2, 5, 12, dtype=torch.float64)
    weight = torch.randn(3, 12, dtype=torch.float64)
    gradients = grad(loss, argnums=(0, 1, 2))
    expected = grad(loss_by_definition, argnums=(0, 1, 2))
    for dims, operands in (
        ((0, 0, 0), (x, gate, weight)),
        ((None, 0, 0), (x[0], gate, weight)),
        ((0, None, None), (x, gate[0], weight[0])),
        ((1, 1, None), (x.transpose(0, 1), gate.transpose(0, 1), weight[0])),
    ):
        wanted = vmap(expected, in_dims=dims)(*operands)
        for found, one in zip(vmap(gradients, in_dims=dims)(*operands), wanted, strict=True):
            torch.testing.assert_close(found, one)


def test_vmap_without_gate_or_weight() -> None:
    x = torch.randn(3, 5, 12)
    found = vmap(lambda one: gated_rms_norm(one))(x)
    torch.testing.assert_close(found, gated_rms_norm(x))


def test_under_compile() -> None:
    leaves = [x.detach().requires_grad_() for x in NormCase(12).operands()[0] if x is not None]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other in zip(found, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_exported_with_any_number_of_rows() -> None:
    class Norm(torch.nn.Module):
        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            return gated_rms_norm(x, gate)

    length = torch.export.Dim("length", min=2)
    given = tuple(torch.randn(2, 2, 7, 8))
    dynamic = ({1: length}, {1: length})
    program = torch.export.export(Norm(), given, dynamic_shapes=dynamic)
    longer = tuple(torch.randn(2, 2, 31, 8))
    torch.testing.assert_close(program.module()(*longer), gated_rms_norm(*longer))


def test_scripted() -> None:
    @torch.jit.script
    def scripted(x: Tensor, gate: Tensor) -> Tensor:
        return gated_rms_norm(x, gate, None, 1e-6, 4, True, "sigmoid")

    x, gate = torch.randn(2, 3, 8)
    expected = gated_rms_norm(x, gate, None, 1e-6, 4, True, "sigmoid")
    torch.testing.assert_close(scripted(x, gate), expected)


def test_autocast_leaves_it_in_float32() -> None:
    (x, gate, weight), _ = NormCase(32).operands()
    expected = gated_rms_norm(x, gate, weight)
    for backend in (None, "reference"):
        with torch.autocast("cpu", torch.bfloat16):
            found = gated_rms_norm(x, gate, weight, backend=backend)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(())}, "x has shape"),
        ({"x": torch.zeros(3, 0), "gate": None, "weight": None}, "it should have channels"),
        ({"gate": torch.zeros(2, 4)}, "gate has shape"),
        ({"weight": torch.zeros(5)}, "weight has shape"),
        ({"weight": torch.zeros(2, 4)}, "weight has shape"),
        ({"group_size": 3}, "group_size is 3; it should divide the channels, 4"),
        ({"group_size": 0}, "group_size is 0"),
        ({"activation": "gelu"}, "activation is 'gelu'; it should be one of silu, swish, sigmoid"),
        ({"gate": torch.zeros(2, 5, 4, dtype=torch.float64)}, "either all or none"),
        ({"x": torch.zeros(2, 5, 4, dtype=torch.int64)}, "x has dtype torch.int64"),
        ({"backend": "cuda"}, "they should agree"),
        ({"backend": "triton"}, "backend is 'triton'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"x": torch.zeros(2, 5, 4), "gate": torch.zeros(2, 5, 4), "weight": torch.zeros(4)}
    with pytest.raises(InputError, match=message):
        gated_rms_norm(**{**given, **change})
