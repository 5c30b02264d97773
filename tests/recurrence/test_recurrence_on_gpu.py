"""The diagonal recurrence and RWKV's weighted mean on a GPU, against the definition in float64."""

import pytest
import torch

from keelback.recurrence import WkvStates, diagonal_recurrence, wkv
from keelback.recurrence.reference import diagonal_recurrence_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("length", [1, 2, 63, 4096])
def test_states_and_gradients(length: int) -> None:
    torch.manual_seed(0)
    shape = (2, length, 96)
    leaves = [torch.rand(shape).sqrt(), torch.randn(shape), torch.randn(2, 96)]
    exact = [x.double().requires_grad_() for x in leaves]
    found = [x.cuda().requires_grad_() for x in leaves]
    expected, y = diagonal_recurrence_reference(*exact), diagonal_recurrence(*found)
    weights = torch.randn(shape)
    expected.backward(weights.double())
    y.backward(weights.cuda())
    for one, other in zip(
        [y, *(x.grad for x in found)], [expected, *(x.grad for x in exact)], strict=True
    ):
        assert one is not None
        assert other is not None
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.cpu().double(), other, rtol=0, atol=2e-6 * size)


def test_the_mean_is_that_on_a_cpu_and_goes_on_from_its_states() -> None:
    torch.manual_seed(0)
    k, v = 3 * torch.randn(2, 200, 64), torch.randn(2, 200, 64)
    w, u = -torch.rand(64), torch.randn(64)
    expected, last = wkv(*(x.double() for x in (k, v, w, u)))
    on_gpu = [x.cuda() for x in (k, v, w, u)]
    y, _ = wkv(*on_gpu)
    torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-4, atol=1e-5)
    _, states = wkv(on_gpu[0][:, :120], on_gpu[1][:, :120], *on_gpu[2:])
    rest, after = wkv(on_gpu[0][:, 120:], on_gpu[1][:, 120:], *on_gpu[2:], WkvStates(*states))
    torch.testing.assert_close(rest.cpu().double(), expected[:, 120:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.exponent.cpu().double(), last.exponent, rtol=1e-4, atol=1e-4)
