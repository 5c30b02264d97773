"""The CUDA source of the causal convolution, compiled for the host, against float64 autograd."""

import pytest
import torch
from conv_cases import ConvCase, convolved, errors_of
from cuda_cases import TOLERANCE
from host_kernels import COMPILER, run_on_host

from keelback.compiled.layouts import signature_of
from keelback.conv.cuda import launch as causal_conv

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

CASES = [
    ConvCase(),
    ConvCase(silu=False, gap=16),
    ConvCase(replicas=2, channels=12, gap=3),
    ConvCase(channels=5, width=3),
    ConvCase(length=1),
    ConvCase(length=2, width=4, channels=4),
    ConvCase(width=1),
    ConvCase(width=2, batch=1, length=130, channels=4),
    ConvCase(width=9, channels=8),
    ConvCase(dtype=torch.float64, width=3, channels=6),
    ConvCase(dtype=torch.bfloat16),
    ConvCase(dtype=torch.float16, channels=7),
    ConvCase(dtype=torch.bfloat16, tap=torch.bfloat16, length=70),
    ConvCase(dtype=torch.float16, tap=torch.float16, width=3, channels=6, replicas=2),
    ConvCase(tap=torch.bfloat16, width=2),
    ConvCase(biased=False),
    ConvCase(biased=False, dtype=torch.bfloat16, tap=torch.bfloat16, channels=9, width=8),
    ConvCase(apart=True, replicas=2),
    ConvCase(shared=True, replicas=3),
    ConvCase(dtype=torch.float64),
    ConvCase(dtype=torch.bfloat16, tap=torch.bfloat16, of_bias=torch.float32),
    ConvCase(apart=True, channels=5, dtype=torch.bfloat16, tap=torch.bfloat16),
]


@pytest.fixture(autouse=True)
def _on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    run_on_host(monkeypatch, processors=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients(case: ConvCase) -> None:
    errors = errors_of(case)
    assert max(errors.values()) < case.tolerance, errors


@pytest.mark.parametrize("run", [1, 2, 7, 64])
def test_any_cut_of_the_length_gives_the_same(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_conv, "LONGEST_RUN", run)
    monkeypatch.setattr(causal_conv, "SHORTEST_RUN", 1)
    monkeypatch.setattr(causal_conv, "processors_of", lambda device: 0)
    errors = errors_of(ConvCase(length=33))
    assert max(errors.values()) < TOLERANCE[torch.float32], errors


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"length": 0}], ids=str)
def test_nothing_in_nothing_out(sizes: dict[str, int]) -> None:
    x, weight, bias, dy = ConvCase(**sizes).operands()
    y, dx, dweight, dbias = convolved(x, weight, bias, dy, True)
    assert y.shape == x.shape
    assert dx.shape == x.shape
    assert not dweight.any()
    assert dbias is not None
    assert not dbias.any()
    assert convolved(x, weight, None, dy, True)[3] is None


def test_weights_that_start_off_a_piece() -> None:
    x, weight, bias, dy = ConvCase().operands()
    room = torch.empty(weight.numel() + 1)
    shifted = room[1:].view(weight.shape).copy_(weight)
    assert shifted.data_ptr() % 16
    for one, other in zip(
        convolved(x, shifted, bias, dy, True), convolved(x, weight, bias, dy, True), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_small_input_is_cut_into_short_runs_and_a_large_one_is_not() -> None:
    few, many = (
        causal_conv.prepare(signature_of(case.operands()[:3]), (True,))
        for case in (ConvCase(channels=4, length=512), ConvCase(channels=4096, length=512))
    )
    assert few.runs(4) == (512 // causal_conv.SHORTEST_RUN, causal_conv.SHORTEST_RUN)
    assert many.runs(4) == (512 // causal_conv.LONGEST_RUN, causal_conv.LONGEST_RUN)
