"""mamba-ssm's step by heads, which overwrites its states and has operands repeated."""

from typing import Any

import pytest
import torch
from ssd_step_cases import BF16, F32, make_step
from torch import Tensor

from keelback.errors import InputError
from keelback.scan import selective_state_update
from keelback.ssd import ssd_step


def as_in_mamba_ssm(given: dict[str, Any]) -> dict[str, Any]:
    """The same step, whose states are overwritten."""
    heads, head_dim = given["x"].shape[1:]
    state = given["B"].shape[-1]
    D, bias = given["D"], given["dt_bias"]
    return {
        "state": given["states"].clone(),
        "x": given["x"],
        "dt": given["dt"][..., None].expand(-1, -1, head_dim),
        "A": given["A"][:, None, None].expand(-1, head_dim, state),
        "B": given["B"],
        "C": given["C"],
        "D": D[:, None].expand(-1, head_dim) if D is not None and D.ndim == 1 else D,
        "z": given["z"],
        "dt_bias": None if bias is None else bias[:, None].expand(heads, head_dim),
        "dt_softplus": given["dt_softplus"],
    }


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"D": "number", "z": False},
        {"D": None, "bias": False},
        {"dtype": BF16, "kept": BF16, "parameters": BF16},
    ],
)
@pytest.mark.parametrize("repeated", [True, False])
def test_it_is_a_step_in_place(options: dict[str, Any], repeated: bool) -> None:
    given = make_step(**options)
    y, after = ssd_step(**given)
    theirs = as_in_mamba_ssm(given)
    if not repeated:  # The same numbers, of which nothing says that they are the same.
        theirs |= {name: theirs[name].clone() for name in ("dt", "A")}
    found = selective_state_update(**theirs)
    assert (found.dtype, theirs["state"].dtype) == (y.dtype, given["states"].dtype)
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(theirs["state"], after.to(theirs["state"].dtype))


def test_rates_that_differ_within_a_head_are_used() -> None:
    given = as_in_mamba_ssm(make_step(batch=1, heads=2, head_dim=3, states=4))
    given["A"] = given["A"] * (1 + torch.arange(4))
    given["dt"] = given["dt"] * (1 + torch.arange(3))
    flat = {n: x.flatten(1) if n in ("x", "dt", "z") else x for n, x in given.items()}
    for name in ("A", "D", "dt_bias"):
        flat[name] = given[name].flatten(0, 1)
    expected = given["state"].flatten(1, 2).clone()
    y = selective_state_update(**{**flat, "state": expected})
    spread = torch.zeros(1, 2, 4, 3).mT  # No view of it has heads and numbers as one axis.
    for state in (given["state"], spread.copy_(given["state"])):
        found = selective_state_update(**{**given, "state": state})
        torch.testing.assert_close(found.flatten(1), y)
        torch.testing.assert_close(state.flatten(1, 2), expected)


def test_step_sizes_are_not_clamped() -> None:
    given = make_step(limit=(-torch.inf, torch.inf), bias=False)
    given["dt_softplus"] = False
    y, _ = ssd_step(**given)
    assert (given["dt"] < 0).any()
    torch.testing.assert_close(selective_state_update(**as_in_mamba_ssm(given)), y)


def test_it_is_compiled() -> None:
    given = as_in_mamba_ssm(make_step())
    compiled = torch.compile(selective_state_update, backend="aot_eager", fullgraph=True)
    plain, seen = given["state"].clone(), given["state"].clone()
    y = selective_state_update(**{**given, "state": plain})
    torch.testing.assert_close(compiled(**{**given, "state": seen}), y)
    torch.testing.assert_close(seen, plain)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (
            "x",
            torch.zeros(3, 48),
            r"x has shape \(3, 48\); it should be \(batch, heads",
        ),
        ("dt", torch.zeros(3, 4), r"dt has shape \(3, 4\); it should be \(3, 4, 12\)"),
        ("A", torch.zeros(4), r"A has shape \(4,\); it should be \(4, 12, 16\)"),
        ("B", torch.zeros(3, 3, 16), "B has 3 groups; .* that of heads, 4"),
        ("dt_bias", torch.zeros(4), r"dt_bias has shape \(4,\); it should be \(4, 12\)"),
        ("state", torch.zeros(3, 4, 12, 15), r"states has shape \(3, 4, 12, 15\)"),
        ("z", torch.zeros(3, 48), "z has shape"),
    ],
)
def test_wrong_operands_are_named(name: str, wrong: Tensor, message: str) -> None:
    assert wrong.dtype == F32
    with pytest.raises(InputError, match=message):
        selective_state_update(**{**as_in_mamba_ssm(make_step()), name: wrong})
