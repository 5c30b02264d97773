"""One step on the CPU against the reference in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from keelback.scan import selective_scan_step
from keelback.scan._mamba_ssm import selective_state_update
from keelback.scan.reference import selective_scan_step_reference

NAMES = ("state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def _operands(
    batch: int, channels: int, states: int, groups: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(channels * states)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator)

    rows, per_state = (batch, channels), (channels, states)
    of_groups = (batch, groups, states)
    values = (
        normal(*rows, states), normal(*rows), normal(*rows), -normal(*per_state).abs(),
        normal(*of_groups), normal(*of_groups), normal(channels), normal(*rows), normal(channels),
    )  # fmt: skip
    return dict(zip(NAMES, values, strict=True))


def _require_close(given: dict[str, Tensor], found: tuple[Tensor, Tensor]) -> None:
    none: dict[str, Tensor | None] = dict.fromkeys(NAMES)
    exact: dict = none | {name: x.double() for name, x in given.items()}
    tolerance = 1e-5 if given["u"].dtype == torch.float32 else 1e-13
    expected = selective_scan_step_reference(**exact, delta_softplus=True)
    for of_ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(of_ours.double(), right, rtol=tolerance, atol=10 * tolerance)


SIZES = [
    (1, 1, 1, 1),
    (2, 6, 3, 2),
    (3, 40, 16, 1),
    (2, 64, 20, 4),
    (1, 8, 128, 2),
    (2, 36, 4, 9),
    (5, 3, 33, 3),
    (0, 3, 4, 1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("absent", [(), ("D",), ("z",), ("delta_bias", "z", "D")])
def test_a_step_is_the_reference(
    sizes: tuple[int, int, int, int], absent: tuple[str, ...], dtype: torch.dtype
) -> None:
    given = {k: x for k, x in _operands(*sizes, dtype).items() if k not in absent}
    _require_close(given, selective_scan_step(**given, delta_softplus=True))


def _turned(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def _spread(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]


def _in_a_row(x: Tensor) -> Tensor:
    """With a gap behind each row."""
    return torch.cat([x, torch.full_like(x, torch.nan)], -1)[..., : x.shape[-1]]


@pytest.mark.parametrize("lay", [_turned, _spread, _in_a_row])
@pytest.mark.parametrize("name", NAMES)
def test_operands_may_lie_as_they_will(name: str, lay: Callable[[Tensor], Tensor]) -> None:
    given = _operands(2, 24, 20, 3, torch.float32)
    if given[name].ndim == 1 and lay is _turned:
        pytest.skip("a row is not turned")
    given[name] = lay(given[name])
    before = {k: x.clone() for k, x in given.items()}
    _require_close(given, selective_scan_step(**given, delta_softplus=True))
    assert all(torch.equal(given[k], before[k]) for k in NAMES)


@pytest.mark.parametrize("lay", [_turned, _spread, _in_a_row, torch.clone])
def test_a_state_is_overwritten_where_it_lies(lay: Callable[[Tensor], Tensor]) -> None:
    given = _operands(3, 24, 20, 3, torch.float32)
    state = lay(given["state"])
    y = selective_state_update(
        state, given["u"], given["delta"], given["A"], given["B"], given["C"], given["D"],
        given["z"], given["delta_bias"], dt_softplus=True,
    )  # fmt: skip
    _require_close(given, (y, state))


def _advance(state: Tensor, given: dict[str, Tensor]) -> None:
    u, delta, A, B, C = (given[name] for name in NAMES[1:6])
    selective_state_update(state, u, delta, A, B, C)


def test_an_overwritten_state_is_known_to_be_another() -> None:
    given = _operands(2, 6, 16, 1, torch.float32)
    state, ones = given["state"], torch.ones(2, 6, 16, requires_grad=True)
    readout = (ones * state).sum()
    _advance(state, given)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        readout.backward()


def test_a_state_whose_rows_are_one_is_not_overwritten() -> None:
    given = _operands(2, 6, 16, 1, torch.float32)
    with pytest.raises(RuntimeError, match="single memory location"):
        _advance(given["state"][:1].expand(2, -1, -1), given)


def test_a_step_beyond_all_bounds_forgets() -> None:
    """The decay is 0 and what drives is 0 times B: no NaN comes from lanes without a state."""
    given = _operands(1, 4, 5, 1, torch.float32)
    given["delta"] = torch.full((1, 4), 1e38)
    given["u"], given["A"] = torch.zeros(1, 4), torch.full((4, 5), -1e30)
    y, state = selective_scan_step(*[given[k] for k in NAMES[:6]])
    assert torch.equal(state, torch.zeros(1, 4, 5))
    assert torch.equal(y, torch.zeros(1, 4))


def test_a_step_is_a_scan_of_one_step_whatever_the_threads() -> None:
    given = _operands(64, 96, 16, 1, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = selective_scan_step(**given, delta_softplus=True)
        torch.set_num_threads(2)
        shared = selective_scan_step(**given, delta_softplus=True)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
