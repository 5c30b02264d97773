"""What `ssd` refuses, and what PyTorch's transforms see of it."""

from typing import Any

import numpy as np
import pytest
import torch
from ssd_cases import Case, make_operands
from torch.library import opcheck

from keelback.errors import InputError
from keelback.ssd import ssd, ssd_step
from keelback.ssd.reference import ssd_reference

DOUBLE = torch.float64


def operands(**changes: Any) -> dict[str, Any]:
    given = make_operands(Case(length=10, initial=True, reset=True, z=True))
    return {**given, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 10, 3)}, r"x has shape \(2, 10, 3\); it should be \(batch, length"),
        ({"dt": torch.zeros(2, 10, 1)}, r"dt has shape \(2, 10, 1\); it should be \(2, 10, 3\)"),
        ({"A": torch.zeros(3, 16)}, r"A has shape \(3, 16\); it should be \(3\)"),
        ({"B": torch.zeros(2, 10, 2, 16)}, "B has 2 groups; .* that of heads, 3"),
        ({"C": torch.zeros(2, 10, 1, 15)}, r"C has shape .* it should be \(2, 10, 1, 16\)"),
        ({"D": torch.zeros(16)}, r"D has shape \(16,\); it should be \(3\) or \(3, 16\)"),
        ({"z": torch.zeros(2, 10, 3)}, r"z has shape"),
        ({"dt_bias": torch.zeros(1)}, r"dt_bias has shape"),
        ({"initial_states": torch.zeros(2, 3, 16, 15)}, r"initial_states has shape"),
        ({"reset": torch.zeros(2, 10)}, "reset has dtype torch.float32; it should be torch.bool"),
        ({"reset": torch.zeros(2, 9, dtype=torch.bool)}, r"reset has shape \(2, 9\)"),
        ({"dt_limit": (0.5, 0.1)}, r"dt_limit is \(0.5, 0.1\)"),
        ({"dt_limit": None}, "dt_limit is None; it should be"),
        ({"dt_limit": (0.1,)}, r"dt_limit is \(0.1,\); it should be"),
        ({"x": None}, "x is None; it should be a tensor"),
        ({"x": np.zeros((2, 10, 3, 16))}, "x is a ndarray; it should be a tensor"),
        ({"reset": [[True] * 10] * 2}, "reset is a list; it should be a tensor"),
        ({"reset": None, "seq_idx": [[0] * 10] * 2}, "seq_idx is a list; it should be a tensor"),
        ({"reset": None, "cu_seqlens": [0, 10]}, "cu_seqlens is a list; it should be a tensor"),
        ({"x": torch.zeros(2, 10, 3, 16).long()}, "x has dtype torch.int64"),
        ({"A": torch.zeros(3, dtype=DOUBLE)}, "A has dtype torch.float64 and x torch.float32"),
        ({"backend": "cuda"}, "backend is 'cuda' and x is on cpu"),
        ({"backend": "gpu"}, "backend is 'gpu'; it should be one of"),
        ({"seq_idx": torch.zeros(2, 10).long()}, "seq_idx is given with reset"),
        ({"cu_seqlens": torch.tensor([0, 10])}, "both reset and cu_seqlens"),
    ],
)
def test_wrong_operands_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ssd(**operands(**changes))


@pytest.mark.parametrize("how", ["reset", "seq_idx"])
def test_of_no_steps_nothing_begins(how: str) -> None:
    begins = {"reset": torch.zeros(2, 0, dtype=torch.bool), "seq_idx": torch.zeros(2, 0).long()}
    given = {name: x for name, x in operands().items() if name not in ("reset", "backend")}
    none = {name: given[name][:, :0] for name in ("x", "dt", "B", "C", "z")}
    assert ssd(**{**given, **none}, **{how: begins[how]}).shape == (2, 0, 3, 16)


def test_a_step_names_its_states() -> None:
    given = {name: x for name, x in operands().items() if name not in ("reset", "initial_states")}
    now = {name: given[name][:, 0] for name in ("x", "dt", "B", "C", "z")}
    with pytest.raises(InputError, match=r"states has shape \(2, 3, 16, 4\)"):
        ssd_step(torch.zeros(2, 3, 16, 4), **{**given, **now})


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_both_backends_give_the_same(backend: Any) -> None:
    given = make_operands(Case(length=90, z=True, initial=True, dtype=DOUBLE))
    expected, _ = ssd_reference(**given)
    torch.testing.assert_close(ssd(**given, backend=backend), expected)


def test_the_registered_operator_is_as_pytorch_wants_it() -> None:
    given = make_operands(Case(batch=1, length=70, z=True, initial=True, reset=True))
    *tensors, softplus, limits = given.values()
    inside = [
        x.unsqueeze(0).requires_grad_(x.is_floating_point()) if torch.is_tensor(x) else x
        for x in tensors
    ]
    opcheck(torch.ops.keelback.ssd, (*inside, softplus, *limits))


def test_gradcheck_in_double_precision() -> None:
    case = Case(1, 67, 2, 2, 1, 2, DOUBLE, z=True, initial=True, D="number", reset=True)
    given = make_operands(case)
    names = [name for name, x in given.items() if torch.is_tensor(x) and x.is_floating_point()]
    leaves = [given[name].requires_grad_() for name in names]

    def run(*values: torch.Tensor) -> Any:
        return ssd(**{**given, **dict(zip(names, values, strict=True))}, return_final_states=True)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def mapped_operands() -> tuple[torch.Tensor, ...]:
    given = make_operands(Case(length=70, heads=4, groups=2, dtype=DOUBLE))
    x = torch.stack([given["x"], 2 * given["x"], -given["x"]])
    A = torch.stack([given["A"], given["A"] / 2, 3 * given["A"]])
    return x, given["dt"], A, given["B"], given["C"]


@pytest.mark.parametrize("in_dims", [(0, None, 0, None, None), (0, None, None, None, None)])
def test_vmap_runs_every_replica(in_dims: tuple[int | None, ...]) -> None:
    x, dt, A, B, C = mapped_operands()
    of_A = A if in_dims[2] == 0 else A[0]
    found = torch.vmap(ssd, in_dims=in_dims)(x, dt, of_A, B, C)
    each = [ssd(x[i], dt, A[i] if in_dims[2] == 0 else A[0], B, C) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(each))


def test_vmap_over_masks_too() -> None:
    x, dt, A, B, C = mapped_operands()
    reset = torch.rand(3, 2, 70, generator=torch.Generator().manual_seed(0)) < 0.1

    def run(x: Any, A: Any, reset: Any) -> Any:
        return ssd(x, dt, A, B, C, reset=reset)

    found = torch.vmap(run)(x, A, reset)
    torch.testing.assert_close(found, torch.stack([run(x[i], A[i], reset[i]) for i in range(3)]))


def test_gradients_per_sample_by_functional_transforms() -> None:
    x, dt, A, B, C = mapped_operands()

    def loss(A: Any, x: Any) -> Any:
        return ssd(x, dt, A, B, C).square().sum()

    found = torch.vmap(torch.func.grad(loss))(A, x)
    each = torch.stack([torch.func.grad(loss)(A[i], x[i]) for i in range(3)])
    torch.testing.assert_close(found, each)


def test_compiled_whole_and_exported_with_any_length() -> None:
    given = make_operands(Case(length=70, z=True))
    names = [name for name, x in given.items() if torch.is_tensor(x)]
    options = {name: x for name, x in given.items() if name not in names}

    class Model(torch.nn.Module):
        def forward(self, *values: torch.Tensor) -> Any:
            return ssd(**options, **dict(zip(names, values, strict=True)))

    values = tuple(given[name] for name in names)
    compiled = torch.compile(Model(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*values), ssd(**given))
    length = torch.export.Dim("length", min=2, max=4096)
    sequences = ("x", "dt", "B", "C", "z")
    shapes = tuple({1: length} if name in sequences else None for name in names)
    program = torch.export.export(Model(), values, dynamic_shapes=(shapes,))
    longer = make_operands(Case(length=130, z=True))
    found = program.module()(*(longer[name] for name in names))
    torch.testing.assert_close(found, ssd(**longer))


def test_second_derivatives_are_refused_by_name() -> None:
    given = make_operands(Case(length=10))
    x = given["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(ssd(**given).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(gradient.sum(), x)
