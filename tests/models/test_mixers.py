"""Every baseline's map of sequences against its definition, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from keelback.models import (
    DiagonalLTI,
    LinearAttention,
    SoftmaxAttention,
    VanillaRNN,
)
from keelback.scan import selective_scan

D = 5
SLOPE = 0.05


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


MIXERS = {
    "softmax": lambda: SoftmaxAttention(D, 3, SLOPE, generator()),
    "softmax, no slope": lambda: SoftmaxAttention(D, 3, 0.0, generator()),
    "linear": lambda: LinearAttention(D, 3, SLOPE, generator()),
    "lti": lambda: DiagonalLTI(D, 4, generator()),
    "rnn": lambda: VanillaRNN(D, 6, generator()),
}


def softmax_by_definition(mixer, u):
    rows = []
    for x in u:
        outputs = []
        for t in range(len(x)):
            q = mixer.W_Q @ x[t]
            scores = [
                (q @ (mixer.W_K @ x[s])) / math.sqrt(3) - mixer.slope * (t - s)
                for s in range(t + 1)
            ]
            weights = torch.softmax(torch.stack(scores), 0)
            outputs.append(mixer.W_O @ sum(w * (mixer.W_V @ v) for w, v in zip(weights, x)))  # noqa: B905
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def linear_by_definition(mixer, u):
    rows = []
    for x in u:
        outputs = []
        for t in range(len(x)):
            q = F.elu(mixer.W_Q @ x[t]) + 1
            weights = [
                q @ (F.elu(mixer.W_K @ x[s]) + 1) * math.exp(-mixer.slope * (t - s))
                for s in range(t + 1)
            ]
            mean = sum(w * (mixer.W_V @ v) for w, v in zip(weights, x)) / sum(weights)  # noqa: B905
            outputs.append(mixer.W_O @ mean)
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def lti_by_scan(mixer, u):
    batch, length, _ = u.shape
    y = selective_scan(
        u,
        mixer.log_delta.exp().expand_as(u),
        -mixer.A_log.exp(),
        mixer.B.expand(batch, length, -1, -1),
        mixer.C.expand(batch, length, -1, -1),
        backend="reference",
    )
    assert isinstance(y, torch.Tensor)
    return y


def rnn_by_torch(mixer, u):
    rnn = torch.nn.RNN(D, 6, batch_first=True, dtype=u.dtype)
    own = {
        "weight_ih_l0": mixer.W_u,
        "weight_hh_l0": mixer.W_h,
        "bias_ih_l0": mixer.b,
        "bias_hh_l0": torch.zeros_like(mixer.b),
    }
    rnn.load_state_dict(own)
    return rnn(u)[0]


ORACLES = {
    "softmax": softmax_by_definition,
    "softmax, no slope": softmax_by_definition,
    "linear": linear_by_definition,
    "lti": lti_by_scan,
    "rnn": rnn_by_torch,
}


def inputs(batch=3, length=11):
    return torch.randn(batch, length, D, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("length", [1, 2, 11])
@torch.no_grad()
def test_every_position_is_as_defined(name, length):
    mixer, u = MIXERS[name]().double(), inputs(length=length)
    torch.testing.assert_close(mixer(u), ORACLES[name](mixer, u), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("length", [1, 2, 11])
@torch.no_grad()
def test_the_last_position_alone(name, length):
    mixer, u = MIXERS[name]().double(), inputs(length=length)
    torch.testing.assert_close(mixer.last(u), mixer(u)[:, -1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MIXERS)
@torch.no_grad()
def test_the_future_does_not_matter(name):
    mixer, u = MIXERS[name]().double(), inputs()
    changed = u.clone()
    changed[:, 7:] += 3.0
    torch.testing.assert_close(mixer(changed)[:, :7], mixer(u)[:, :7])
    assert not torch.allclose(mixer(changed)[:, 7:], mixer(u)[:, 7:])


@pytest.mark.parametrize("name", MIXERS)
@torch.no_grad()
def test_an_empty_batch(name):
    mixer = MIXERS[name]()
    assert mixer.last(torch.zeros(0, 4, D)).shape == (0, 1, mixer.d_output)


@pytest.mark.parametrize("name", MIXERS)
def test_gradients(name):
    mixer, u = MIXERS[name]().double(), inputs(batch=2, length=4).requires_grad_()
    names, parameters = zip(*mixer.named_parameters(), strict=True)

    def last(u, *parameters):
        own = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(mixer, own, (u,))

    assert torch.autograd.gradcheck(last, (u, *parameters))


@torch.no_grad()
def test_softmax_attention_is_that_of_torch():
    mixer, u = SoftmaxAttention(D, 3, 0.0, generator()).double(), inputs()
    q, k, v = (u @ W.mT for W in (mixer.W_Q, mixer.W_K, mixer.W_V))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True) @ mixer.W_O.mT
    torch.testing.assert_close(mixer(u), expected)


@torch.no_grad()
def test_without_a_slope_attention_sees_a_bag_of_tokens():
    u = inputs()
    shuffled = torch.cat([u[:, torch.tensor([3, 1, 0, 2, 9, 8, 7, 6, 5, 4])], u[:, -1:]], dim=1)
    for mixer in (SoftmaxAttention(D, 3, 0.0), LinearAttention(D, 3, 0.0)):
        mixer.double()
        torch.testing.assert_close(mixer.last(shuffled), mixer.last(u))
    for mixer in (SoftmaxAttention(D, 3, 0.1), LinearAttention(D, 3, 0.1)):
        mixer.double()
        assert not torch.allclose(mixer.last(shuffled), mixer.last(u))


@torch.no_grad()
def test_long_sequences_stay_finite():
    u = 3 * torch.randn(2, 4000, D, generator=generator(2))
    for name, make in MIXERS.items():
        assert bool(torch.isfinite(make().last(u)).all()), name
