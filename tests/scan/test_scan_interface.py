"""What the scan takes and gives: resets, steps, the layout of mamba_ssm, and errors for people."""

from itertools import pairwise

import pytest
import torch
from scan_cases import Case

from keelback.errors import InputError
from keelback.scan import (
    attention_matrix,
    selective_scan,
    selective_scan_across,
    selective_scan_fn,
    selective_scan_step,
    selective_state_update,
)

CASE = Case(batch=2, length=20, groups=2, channels_per_group=3)
OPERANDS = CASE.operands()


@pytest.mark.parametrize("backend", [None, "reference"])
def test_packed_sequences_are_those_run_alone(backend) -> None:
    operands = Case(batch=1, length=150, groups=2).operands()
    bounds = [0, 1, 40, 40, 104, 150]
    initial = operands.pop("initial_state")
    along = ("u", "delta", "B", "C", "z")
    alone = []
    for start, stop in pairwise(bounds):
        part = {n: x[:, start:stop] if n in along else x for n, x in operands.items()}
        first = initial if start == 0 else None
        alone.append(selective_scan(**part, delta_softplus=True, initial_state=first))
    y = selective_scan(
        **operands,
        delta_softplus=True,
        initial_state=initial,
        cu_seqlens=torch.tensor(bounds),
        backend=backend,
    )
    torch.testing.assert_close(y, torch.cat(alone, 1), rtol=1e-12, atol=1e-12)


def test_a_reset_stops_inf_and_nan() -> None:
    operands = {name: x.float() for name, x in Case(batch=1, optional=False).operands().items()}
    operands["u"][0, 3] = torch.inf
    reset = torch.zeros(1, 37, dtype=torch.bool)
    reset[0, 10] = True
    operands["u"].requires_grad_()
    y, last_state = selective_scan(
        **operands, delta_softplus=True, reset=reset, return_last_state=True
    )
    assert not y[:, 3:10].isfinite().any()
    assert y[:, 10:].isfinite().all()
    assert last_state.isfinite().all()
    (gradient,) = torch.autograd.grad(y[:, 10:].sum(), operands["u"])
    assert gradient[:, 10:].isfinite().all()
    assert (gradient[:, :3] == 0).all()


def test_scanning_in_pieces_and_step_by_step_is_scanning_at_once() -> None:
    operands = dict(OPERANDS)
    initial = operands.pop("initial_state")
    y, last_state = selective_scan(
        **operands, delta_softplus=True, initial_state=initial, return_last_state=True
    )
    along = ("u", "delta", "B", "C", "z")
    state, outputs = initial, []
    for t in range(CASE.length):
        one = {name: x[:, t] if name in along else x for name, x in operands.items()}
        output, state = selective_scan_step(state, **one, delta_softplus=True)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, 1), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last_state, rtol=1e-12, atol=1e-12)


def test_the_layout_of_mamba_ssm() -> None:
    operands = dict(OPERANDS)
    operands.pop("initial_state")
    y, last_state = selective_scan(**operands, delta_softplus=True, return_last_state=True)
    theirs = {
        name: x.mT if name in ("u", "delta", "z") else x.movedim(1, -1) if name in "BC" else x
        for name, x in operands.items()
    }
    found = selective_scan_fn(**theirs, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(found[0].mT, y)
    torch.testing.assert_close(found[1], last_state)
    torch.testing.assert_close(selective_scan_fn(**theirs, delta_softplus=True).mT, y)


@pytest.mark.parametrize("constant", ["B", "C"])
def test_the_shapes_of_B_and_C_in_mamba_ssm(constant) -> None:
    operands = Case(batch=2, length=9, channels_per_group=6, optional=False).operands()
    fixed = torch.randn(6, 4, dtype=torch.float64)
    varying = operands["C" if constant == "B" else "B"]
    written = {
        constant: fixed.expand(2, 9, 6, 4),
        "C" if constant == "B" else "B": varying.expand(2, 9, 6, 4),
    }
    expected = selective_scan(operands["u"], operands["delta"], operands["A"], **written)
    maps = {constant: fixed, "C" if constant == "B" else "B": varying.squeeze(2).mT}
    found = selective_scan_fn(operands["u"].mT, operands["delta"].mT, operands["A"], **maps)
    torch.testing.assert_close(found.mT, expected)


def test_the_state_update_of_mamba_ssm_overwrites_the_state() -> None:
    one = {n: x[:, 0] if n in ("u", "delta", "B", "C", "z") else x for n, x in OPERANDS.items()}
    state = one.pop("initial_state").clone()
    y, expected = selective_scan_step(state, **one, delta_softplus=True)
    found = selective_state_update(
        state, one["u"], one["delta"], one["A"], one["B"], one["C"], one["D"], one["z"],
        one["delta_bias"], dt_softplus=True,
    )  # fmt: skip
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(state, expected)


WRONG = {
    "u": (torch.zeros(2, 20), r"u has shape \(2, 20\); it should be \(batch, length, channels\)"),
    "delta": (torch.zeros(2, 20, 5), r"delta .* \(2, 20, 6\) or \(2, 20, 1\)"),
    "A": (torch.zeros(5, 4), r"A has shape \(5, 4\); it should be \(6, state\)"),
    "B": (torch.zeros(2, 20, 4, 4), "B has 4 groups; their number should divide .* 6"),
    "C": (torch.zeros(2, 20, 1, 4), r"C .* should be \(2, 20, 2, 4\)"),
    "D": (torch.zeros(1), r"D .* should be \(6\)"),
    "z": (torch.zeros(2, 6, 20), r"z has shape \(2, 6, 20\); it should be \(2, 20, 6\)"),
    "delta_bias": (torch.zeros(7), "delta_bias has shape"),
    "initial_state": (torch.zeros(2, 4, 6), r"initial_state .* \(2, 6, 4\)"),
    "reset": (torch.zeros(2, 21, dtype=torch.bool), r"reset .* \(2, 20\)"),
    "cu_seqlens": (torch.tensor([0, 20]), "batch of 2"),
    "backend": ("gpu", "backend is 'gpu'; it should be one of reference, cpu, cuda"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_operand_is_named_with_what_would_be_right(name) -> None:
    value, message = WRONG[name]
    operands: dict = {**OPERANDS, name: value}
    with pytest.raises(InputError, match=message):
        selective_scan(**operands)


WRONG_DTYPES = {
    "one float32": ({"A": OPERANDS["A"].float()}, "either all or none should be float64"),
    "integers": ({"u": OPERANDS["u"].long()}, "u has dtype torch.int64; it should be float32"),
    "complex": ({"A": OPERANDS["A"].cfloat()}, "A has dtype torch.complex64"),
    "reset": ({"reset": torch.zeros(2, 20)}, "reset has dtype torch.float32"),
    "device": ({"z": OPERANDS["z"].to("meta")}, "z is on meta and u on cpu"),
    "backend": ({"backend": "cuda"}, "backend is 'cuda' and u is on cpu"),
    "both": (
        {"reset": torch.zeros(2, 20, dtype=torch.bool), "cu_seqlens": torch.tensor([0, 20])},
        "both reset and cu_seqlens",
    ),
}


@pytest.mark.parametrize("name", WRONG_DTYPES)
def test_wrong_dtypes_and_devices(name) -> None:
    changes, message = WRONG_DTYPES[name]
    with pytest.raises(InputError, match=message):
        selective_scan(**{**OPERANDS, **changes})


@pytest.mark.parametrize("bounds", [[0, 9], [1, 10], [0, 7, 5, 10], []])
def test_wrong_bounds(bounds) -> None:
    operands = Case(batch=1, length=10).operands()
    with pytest.raises(InputError, match="cu_seqlens should rise from 0 to the length 10"):
        selective_scan(**operands, cu_seqlens=torch.tensor(bounds, dtype=torch.int64))


def test_steps_and_the_layout_of_mamba_ssm_are_checked_too() -> None:
    x = torch.zeros
    with pytest.raises(InputError, match=r"state has shape \(2, 3, 5\)"):
        selective_scan_step(x(2, 3, 5), x(2, 3), x(2, 3), x(3, 4), x(2, 1, 4), x(2, 1, 4))
    with pytest.raises(InputError, match="only real state matrices"):
        selective_scan_fn(x(2, 3, 5), x(2, 3, 5), x(3, 4).cfloat(), x(3, 4), x(3, 4))
    with pytest.raises(InputError, match=r"B has shape \(2, 5, 4\)"):
        selective_scan_fn(x(2, 3, 5), x(2, 3, 5), x(3, 4), x(2, 5, 4), x(3, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": torch.zeros(2, 5, 3)}, r"delta has shape \(2, 5, 3\); it should be \(batch, "),
        ({"A": torch.zeros(4)}, r"A has shape \(4,\)"),
        (
            {"B": torch.zeros(2, 1, 2, 3)},
            r"B has shape \(2, 1, 2, 3\); it should be \(2, 5, g",
        ),
        ({"C": torch.zeros(2, 5, 3, 3)}, "C has 3 groups"),
    ],
)
def test_the_attention_matrix_names_what_does_not_fit(change, message) -> None:
    maps = torch.zeros(2, 5, 2, 3)
    given = {"delta": torch.zeros(2, 5, 4), "A": torch.zeros(4, 3), "B": maps, "C": maps}
    with pytest.raises(InputError, match=message):
        attention_matrix(**{**given, **change})


@pytest.mark.parametrize("device", ["meta"])
def test_processes_do_not_scan_what_has_no_data(device, monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: 0)
    x, A = torch.zeros(1, 3, 4, device=device), torch.zeros(4, 2, device=device)
    maps = torch.zeros(1, 3, 1, 2, device=device)
    with pytest.raises(InputError, match="u is on meta"):
        selective_scan_across(x, x, A, maps, maps)
