"""The CUDA source of the gated norm, compiled for the host, against float64 autograd."""

from dataclasses import replace

import pytest
import torch
from norm_cases import NormCase, errors_of, expected_of, tolerance
from norm_host import COMPILER, by_kernels, on_host

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

HALF, BF16, DOUBLE = torch.float16, torch.bfloat16, torch.float64
CASES = [
    NormCase(),
    NormCase(norm_before_gate=True),
    NormCase(activation="sigmoid", gap=4),
    NormCase(norm_before_gate=True, activation="sigmoid", dtype=BF16),
    NormCase(gated=False),
    NormCase(weighted=False),
    NormCase(gated=False, weighted=False, rows=(5,)),
    NormCase(channels=96, group_size=32, gap=8),
    NormCase(channels=96, group_size=12, dtype=BF16, norm_before_gate=True),
    NormCase(channels=1536, dtype=BF16, rows=(2, 5), gap=64),
    NormCase(channels=1536, group_size=768, dtype=HALF, rows=(5,)),
    NormCase(channels=1000, rows=(4,)),
    NormCase(channels=1001, dtype=BF16, rows=(4,), norm_before_gate=True),
    NormCase(channels=2050, rows=(3,)),
    NormCase(channels=8192, rows=(3,)),
    NormCase(channels=8192, dtype=BF16, rows=(3,)),
    NormCase(channels=16384, dtype=BF16, rows=(3,), norm_before_gate=True),
    NormCase(channels=16384, dtype=HALF, rows=(3,), gap=1),
    NormCase(channels=128, dtype=BF16, rows=(2, 9, 3), norm_before_gate=True, gap=8),
    NormCase(channels=4, rows=(300,), dtype=BF16),
    NormCase(channels=7, rows=(100,)),
    NormCase(channels=36, dtype=DOUBLE, group_size=18),
    NormCase(channels=36, dtype=DOUBLE, norm_before_gate=True, gap=3),
    NormCase(rows=()),
    NormCase(rows=(1, 1)),
    NormCase(rows=(2, 2, 3, 2), gap=8),
    NormCase(dtype=BF16, rounded=True),
    NormCase(dtype=BF16, rounded=True, norm_before_gate=True),
    NormCase(dtype=BF16, rounded=True, promoted=True, weight=torch.float32),
    NormCase(dtype=BF16, rounded=True, norm_before_gate=True, weight=torch.float32),
    NormCase(gate=BF16, weight=HALF, gap=8),
    NormCase(dtype=BF16, gate=torch.float32, weight=torch.float32, norm_before_gate=True),
    NormCase(replicas=3, channels=24, gap=4),
    NormCase(replicas=2, channels=24, group_size=8, dtype=BF16, norm_before_gate=True),
]


@pytest.fixture(autouse=True)
def _on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch.setattr)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients(case: NormCase) -> None:
    errors = errors_of(case, by_kernels, "cpu")
    assert max(errors.values()) < tolerance(case), errors


@pytest.mark.parametrize("processors", [1, 3, 40])
@pytest.mark.parametrize("channels", [128, 600])
def test_any_number_of_blocks_gives_the_same(
    processors: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_host(monkeypatch.setattr, processors)
    case = NormCase(channels=channels, rows=(61,))
    errors = errors_of(case, by_kernels, "cpu")
    assert max(errors.values()) < tolerance(case), errors


def test_the_gradient_of_the_weight_is_the_same_each_time() -> None:
    given, dy = NormCase(rows=(200,)).operands()
    once, again = (by_kernels(given, dy, NormCase().options)[1][2] for _ in range(2))
    assert once is not None
    assert again is not None
    assert torch.equal(once, again)


@pytest.mark.parametrize("case", [NormCase(), NormCase(dtype=BF16, norm_before_gate=True)], ids=str)
def test_operands_may_lie_in_any_way(case: NormCase) -> None:
    """Transposed, repeated, with a stride between channels, and where no piece begins."""
    given, dy = case.operands()
    wide = torch.full((*dy.shape, 2), torch.nan, dtype=dy.dtype)
    wide[..., 0] = dy
    apart = wide[..., 0]
    shifted = torch.full((dy.numel() + 1,), torch.nan, dtype=dy.dtype)[1:].view(dy.shape)
    shifted.copy_(dy)
    crossed = dy.transpose(0, 1).contiguous().transpose(0, 1)
    expected = by_kernels(given, dy, case.options)
    for same in (apart, shifted, crossed):
        found = by_kernels(given, same, case.options)
        for one, other in zip(found[1], expected[1], strict=True):
            torch.testing.assert_close(one, other)
    for place in range(2):
        x = given[place]
        assert x is not None
        strided = torch.stack([x, x], dim=-1)[..., 0]
        other = given._replace(**{given._fields[place]: strided})
        y, gradients = by_kernels(other, dy, case.options)
        torch.testing.assert_close(y, expected[0])
        for one, wanted in zip(gradients, expected[1], strict=True):
            torch.testing.assert_close(one, wanted)
    repeated = given._replace(gate=given.gate[:1].expand_as(dy))  # type: ignore[index]
    y, _ = by_kernels(repeated, dy, case.options)
    apart_gate = repeated._replace(gate=repeated.gate.contiguous())  # type: ignore[union-attr]
    torch.testing.assert_close(y, by_kernels(apart_gate, dy, case.options)[0])


@pytest.mark.parametrize("rows", [(0,), (2, 0, 3)])
def test_nothing_in_nothing_out(rows: tuple[int, ...]) -> None:
    case = NormCase(rows=rows)
    given, dy = case.operands()
    y, (dx, dgate, dweight) = by_kernels(given, dy, case.options)
    assert y.shape == dy.shape
    assert dx is not None
    assert dgate is not None
    assert dweight is not None
    assert dx.shape == dgate.shape == dy.shape
    assert not dweight.any()


def test_infinity_and_nan_stay_in_their_group() -> None:
    case = NormCase(channels=64, group_size=16, rows=(3,))
    given, dy = case.operands()
    clean, _ = by_kernels(given, dy, case.options)
    given.x[1, 20], given.x[2, 3] = torch.inf, torch.nan
    y, _ = by_kernels(given, dy, case.options)
    spoilt = torch.zeros(3, 64, dtype=torch.bool)
    spoilt[1, 16:32] = spoilt[2, :16] = True
    assert torch.equal(y[~spoilt], clean[~spoilt])
    assert y[2, :16].isnan().all()


def test_far_gates_do_not_overflow() -> None:
    case = NormCase(channels=4, rows=(1,), dtype=torch.float32)
    given, dy = case.operands()
    far = given._replace(gate=torch.tensor([[1e4, -1e4, 80.0, -80.0]]))
    y, (dx, dgate, _) = by_kernels(far, dy, case.options)
    for x in (y, dx, dgate):
        assert x is not None
        assert x.isfinite().all()


def test_what_is_kept_is_one_over_the_root_mean_square() -> None:
    case = NormCase(channels=48, group_size=12, gated=False, weighted=False)
    given, _ = case.operands()
    from keelback.compiled.layouts import signature_of
    from keelback.norm.cuda import launch

    _, scales = launch.prepare(signature_of(given), case.options).forward(given, True)
    groups = given.x.unflatten(-1, (4, 12))
    torch.testing.assert_close(scales, (groups.square().mean(-1) + 1e-5).rsqrt())


def test_the_definition_is_what_the_cases_expect() -> None:
    """By a loop over the rows and groups of one case that anybody can read."""
    case = NormCase(channels=6, group_size=3, rows=(2,), dtype=DOUBLE)
    for before in (False, True):
        same = replace(case, norm_before_gate=before)
        x, gate, weight = same.operands()[0]
        assert gate is not None
        assert weight is not None
        y = torch.empty(2, 6, dtype=DOUBLE)
        for row in range(2):
            silu = gate[row] / (1 + torch.exp(-gate[row]))
            for part in (slice(0, 3), slice(3, 6)):
                value = x[row, part] if before else x[row, part] * silu[part]
                root = (value.square().sum() / 3 + 1e-5).sqrt()
                after = silu[part] if before else 1.0
                y[row, part] = weight[part] * value / root * after
        torch.testing.assert_close(y, expected_of(same)["y"])
