"""The scan under PyTorch's transforms: autograd's, torch.func's, the compiler's, autocast."""

import pytest
import torch
from scan_cases import Case
from torch.func import grad, vjp, vmap
from torch.utils.checkpoint import checkpoint

from keelback.scan import selective_scan

CASE = Case(batch=2, length=70)
OPERANDS = CASE.operands()
NAMES = tuple(OPERANDS)
ALL = tuple(range(len(NAMES)))


def loss(backend=None):
    def function(*operands):
        y, last_state = selective_scan(
            **dict(zip(NAMES, operands, strict=True)),
            delta_softplus=True,
            return_last_state=True,
            backend=backend,
        )
        return (y**2).sum() + (last_state**3).sum()

    return function


def stacked(replicas):
    cases = [CASE.like(seed=seed).operands() for seed in range(replicas)]
    return {name: torch.stack([case[name] for case in cases]) for name in NAMES}


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def leaves(operands):
    return [x.clone().requires_grad_() for x in operands]


@pytest.mark.parametrize("keep_checkpoints", [True, False])
@pytest.mark.parametrize("absent", [(), ("D", "z", "delta_bias", "initial_state")])
def test_the_operator_passes_opcheck(absent, keep_checkpoints) -> None:
    operands = [
        None if name in absent else OPERANDS[name].unsqueeze(0).requires_grad_() for name in NAMES
    ]
    reset = torch.rand(1, CASE.batch, CASE.length) < 0.1
    torch.library.opcheck(
        torch.ops.keelback.selective_scan, (*operands, reset, True, keep_checkpoints)
    )


def test_grad_and_vjp() -> None:
    expected = grad(loss("reference"), argnums=ALL)(*OPERANDS.values())
    assert_same(grad(loss(), argnums=ALL)(*OPERANDS.values()), expected)
    value, pull = vjp(loss(), *OPERANDS.values())
    assert_same(pull(torch.ones_like(value)), expected)


MAPPED = {
    "all": ALL,
    "parameters": (2, 5, 7),
    "inputs": (0, 1, 3, 4, 6, 8),
    "one": (3,),
}


@pytest.mark.parametrize("mapped", MAPPED.values(), ids=MAPPED.keys())
def test_vmap_and_its_gradients(mapped) -> None:
    replicas = stacked(3)
    in_dims = tuple(0 if i in mapped else None for i in ALL)
    operands = [replicas[n] if i in mapped else OPERANDS[n] for i, n in enumerate(NAMES)]
    assert_same([vmap(loss(), in_dims)(*operands)], [vmap(loss("reference"), in_dims)(*operands)])
    assert_same(
        vmap(grad(loss(), argnums=ALL), in_dims)(*operands),
        vmap(grad(loss("reference"), argnums=ALL), in_dims)(*operands),
    )
    ours, theirs = leaves(operands), leaves(operands)
    vmap(loss(), in_dims)(*ours).sum().backward()
    vmap(loss("reference"), in_dims)(*theirs).sum().backward()
    assert_same([x.grad for x in ours], [x.grad for x in theirs])


def test_vmap_in_vmap_and_over_another_axis() -> None:
    replicas = stacked(3)
    inner = (0,) + (None,) * 8
    outer = (None,) + (0,) * 8
    operands = [replicas[name] for name in NAMES]
    nested = vmap(vmap(loss(), inner), outer)(*operands)
    expected = vmap(vmap(loss("reference"), inner), outer)(*operands)
    assert_same([nested], [expected])
    operands[0] = operands[0].movedim(0, 2)
    last = (2,) + (0,) * 8
    assert_same([vmap(loss(), last)(*operands)], [nested.diagonal()])


def test_replicas_share_unmapped_operands_without_copies() -> None:
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "selective_scan" in str(function):
                seen.append(args)
            return function(*args, **(kwargs or {}))

    A = stacked(5)["A"]
    rest = {name: x for name, x in OPERANDS.items() if name != "A"}
    with Watch():
        vmap(lambda A: selective_scan(A=A, **rest))(A)
    u, delta = seen[0][:2]
    assert u.shape[0] == 5
    assert u.stride(0) == delta.stride(0) == 0
    assert u.data_ptr() == OPERANDS["u"].data_ptr()


def test_compiled_without_a_graph_break() -> None:
    compiled = torch.compile(loss(), fullgraph=True, backend="aot_eager")
    ours, theirs = leaves(OPERANDS.values()), leaves(OPERANDS.values())
    compiled(*ours).backward()
    loss("reference")(*theirs).backward()
    assert_same([x.grad for x in ours], [x.grad for x in theirs])


def test_gradient_checkpointing() -> None:
    ours, theirs = leaves(OPERANDS.values()), leaves(OPERANDS.values())
    checkpoint(loss(), *ours, use_reentrant=False).backward()
    loss("reference")(*theirs).backward()
    assert_same([x.grad for x in ours], [x.grad for x in theirs])


def test_gradient_of_the_last_state_alone() -> None:
    ours, theirs = leaves(OPERANDS.values()), leaves(OPERANDS.values())
    for operands, backend in ((ours, None), (theirs, "reference")):
        named = dict(zip(NAMES, operands, strict=True))
        selective_scan(**named, return_last_state=True, backend=backend)[1].sum().backward()
    for name, one, other in zip(NAMES, ours, theirs, strict=True):
        expected = torch.zeros_like(one) if other.grad is None else other.grad
        torch.testing.assert_close(one.grad, expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_autocast_keeps_the_scan_in_float32(backend) -> None:
    operands = {name: x.float() for name, x in OPERANDS.items()}
    expected = selective_scan(**operands, delta_softplus=True)
    half = {n: x.bfloat16() if n in ("u", "B", "C", "z") else x for n, x in operands.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last_state = selective_scan(
            **half, delta_softplus=True, return_last_state=True, backend=backend
        )
    assert y.dtype == torch.bfloat16
    assert last_state.dtype == torch.float32
    assert (y.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype) -> None:
    operands = {name: x.to(dtype).requires_grad_() for name, x in OPERANDS.items()}
    wide = {name: x.detach().double() for name, x in operands.items()}
    y = selective_scan(**operands, delta_softplus=True)
    expected = selective_scan(**wide, delta_softplus=True)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    y.sum().backward()
    assert all(x.grad.dtype == dtype for x in operands.values())


def test_the_second_derivative_is_refused_and_not_wrong() -> None:
    u = OPERANDS["u"].clone().requires_grad_()
    rest = {name: x for name, x in OPERANDS.items() if name != "u"}
    rest["z"] = rest["z"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(selective_scan(u, **rest).sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        gradient.sum().backward()
