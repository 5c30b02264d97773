"""What `delta_rule` refuses, and what PyTorch's transforms see of it."""

from typing import Any

import pytest
import torch
from delta_cases import Case, make_operands
from torch.library import opcheck

import keelback
from keelback.delta import delta_rule, delta_rule_step
from keelback.delta.reference import delta_rule_reference
from keelback.errors import InputError

DOUBLE = torch.float64
SEQUENCES = ("q", "k", "v", "g", "beta")


def operands(**changes: Any) -> dict[str, Any]:
    given = make_operands(Case(length=10, initial=True, reset=0.1))
    return {**given, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": torch.zeros(2, 10, 2)}, r"v has shape \(2, 10, 2\); it should be \(batch, length"),
        ({"k": torch.zeros(2, 10, 16)}, r"k has shape \(2, 10, 16\); it should be \(2, 10, groups"),
        ({"k": torch.zeros(2, 10, 3, 16)}, "k has 3 groups; .* that of heads of v, 2"),
        ({"q": torch.zeros(2, 10, 2, 15)}, r"q has shape .* it should be \(2, 10, 2, 16\)"),
        ({"g": torch.zeros(2, 10, 2, 15)}, r"g .* should be \(2, 10, 2\) or \(2, 10, 2, 16\)"),
        ({"beta": torch.zeros(2, 10, 1)}, r"beta has shape \(2, 10, 1\)"),
        ({"initial_states": torch.zeros(2, 2, 15, 16)}, r"initial_states has shape"),
        ({"reset": torch.zeros(2, 10)}, "reset has dtype torch.float32; it should be torch.bool"),
        ({"reset": torch.zeros(2, 9, dtype=torch.bool)}, r"reset has shape \(2, 9\)"),
        ({"scale": float("nan")}, "scale is nan; it should be a finite number"),
        ({"v": torch.zeros(2, 10, 2, 16).long()}, "v has dtype torch.int64"),
        ({"g": torch.zeros(2, 10, 2, dtype=DOUBLE)}, "g has dtype torch.float64 and q torch.float"),
        ({"backend": "cuda"}, "backend is 'cuda' and v is on cpu; they should agree"),
        ({"backend": "gpu"}, "backend is 'gpu'; it should be one of .*chunked"),
        ({"seq_idx": torch.zeros(2, 10).long()}, "seq_idx is given with reset"),
        ({"cu_seqlens": torch.tensor([0, 10])}, "both reset and cu_seqlens"),
    ],
)
def test_wrong_operands_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        delta_rule(**operands(**changes))


def test_a_step_names_its_states() -> None:
    given = operands()
    now = [given[name][:, 0] for name in SEQUENCES]
    with pytest.raises(InputError, match=r"states has shape \(2, 2, 16, 4\)"):
        delta_rule_step(torch.zeros(2, 2, 16, 4), *now)


def test_the_room_is_on_the_public_face() -> None:
    assert keelback.delta.delta_rule is delta_rule


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
@pytest.mark.parametrize("by_channel", [False, True])
def test_all_backends_give_the_same(backend: Any, by_channel: bool) -> None:
    given = make_operands(Case(length=90, initial=True, dtype=DOUBLE, by_channel=by_channel))
    expected, _ = delta_rule_reference(**given)
    torch.testing.assert_close(delta_rule(**given, backend=backend), expected)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("by_channel", [False, True])
def test_the_registered_operator_is_as_pytorch_wants_it(
    dtype: torch.dtype, by_channel: bool
) -> None:
    case = Case(batch=1, length=70, initial=True, reset=0.1, dtype=dtype, by_channel=by_channel)
    *tensors, _, _ = make_operands(case).values()
    inside = [x.unsqueeze(0) for x in tensors]
    for by_chunks in (False, True):
        for keep in (False, True):
            leaves = [x.requires_grad_(keep and x.is_floating_point()) for x in inside]
            opcheck(torch.ops.keelback.delta_rule, (*leaves, True, by_chunks, 0.25, keep))


@pytest.mark.parametrize("by_channel", [False, True])
def test_gradcheck_in_double_precision(by_channel: bool) -> None:
    case = Case(1, 67, 2, 2, 1, 3, DOUBLE, by_channel, initial=True, reset=0.05)
    given = make_operands(case)
    names = [name for name, x in given.items() if torch.is_tensor(x) and x.is_floating_point()]
    leaves = [given[name].requires_grad_() for name in names]

    def run(*values: torch.Tensor) -> Any:
        changed = {**given, **dict(zip(names, values, strict=True))}
        return delta_rule(**changed, return_final_states=True)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_vmap_runs_every_replica(dtype: torch.dtype) -> None:
    given = make_operands(Case(length=70, heads=4, dtype=dtype))
    q, k, v, g, beta = (given[name] for name in SEQUENCES)
    many, decays = torch.stack([v, 2 * v, -v]), torch.stack([g, g / 2, 3 * g])

    def run(v: Any, g: Any) -> Any:
        return delta_rule(q, k, v, g, beta, normalise=True)

    found = torch.vmap(run)(many, decays)
    torch.testing.assert_close(found, torch.stack([run(many[i], decays[i]) for i in range(3)]))


def test_vmap_over_masks_too() -> None:
    given = make_operands(Case(length=70))
    reset = torch.rand(3, 2, 70, generator=torch.Generator().manual_seed(0)) < 0.1

    def run(reset: Any) -> Any:
        return delta_rule(**{**given, "reset": reset})

    torch.testing.assert_close(torch.vmap(run)(reset), torch.stack([run(one) for one in reset]))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gradients_per_sample_by_functional_transforms(dtype: torch.dtype) -> None:
    given = make_operands(Case(length=70, dtype=dtype))
    q, k, v, g, beta = (given[name] for name in SEQUENCES)
    many = torch.stack([v, 2 * v, -v])

    def loss(g: Any, v: Any) -> Any:
        return delta_rule(q, k, v, g, beta, normalise=True).square().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(g, many)
    each = torch.stack([torch.func.grad(loss)(g, one) for one in many])
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize("by_channel", [False, True])
def test_compiled_whole_and_exported_with_any_length(by_channel: bool) -> None:
    given = make_operands(Case(length=70, by_channel=by_channel))
    names = [name for name, x in given.items() if torch.is_tensor(x)]
    options = {name: x for name, x in given.items() if name not in names}

    class Model(torch.nn.Module):
        def forward(self, *values: torch.Tensor) -> Any:
            return delta_rule(**options, **dict(zip(names, values, strict=True)))

    values = tuple(given[name] for name in names)
    compiled = torch.compile(Model(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*values), delta_rule(**given))
    leaves = [x.clone().requires_grad_() for x in values]
    found = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    expected = torch.autograd.grad(Model()(*leaves).sum(), leaves)
    torch.testing.assert_close(found, expected)
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = tuple({1: length} for _ in names)
    program = torch.export.export(Model(), values, dynamic_shapes=(shapes,))
    for steps in (130, 5):
        other = make_operands(Case(length=steps, by_channel=by_channel))
        exported = program.module()(*(other[name] for name in names))
        torch.testing.assert_close(exported, delta_rule(**other))


def test_compiled_for_any_sizes() -> None:
    compiled = torch.compile(delta_rule, fullgraph=True, backend="eager", dynamic=True)
    for case in (Case(length=70), Case(length=9, key=24, heads=4)):
        given = make_operands(case)
        torch.testing.assert_close(compiled(**given), delta_rule(**given))


def test_second_derivatives_are_refused_by_name() -> None:
    given = make_operands(Case(length=10))
    v = given["v"].requires_grad_()
    (gradient,) = torch.autograd.grad(delta_rule(**given).sum(), v, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(gradient.sum(), v)
