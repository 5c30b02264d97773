"""The selective SSM against its equations, written as a loop in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelback.errors import InputError
from keelback.models import SelectiveSSM, SelectiveSSMConfig, class_constants


def outputs_by_the_equations(ssm: SelectiveSSM, u: torch.Tensor) -> torch.Tensor:
    """Section 3 of arXiv 2502.01473 token by token, channel by channel, in Python floats."""
    A, W_B, W_C = ssm.A.tolist(), ssm.W_B.tolist(), ssm.W_C.tolist()
    q, p = ssm.q.tolist(), ssm.p.item()
    d, n = len(A), len(A[0])
    result = []
    for sequence in u.tolist():
        x = [[0.0] * n for _ in range(d)]
        rows = []
        for token in sequence:
            delta = math.log1p(math.exp(p + sum(a * b for a, b in zip(q, token, strict=True))))
            B = [sum(w * t for w, t in zip(row, token, strict=True)) for row in W_B]
            C = [sum(w * t for w, t in zip(row, token, strict=True)) for row in W_C]
            for j in range(d):
                for k in range(n):
                    x[j][k] = math.exp(delta * A[j][k]) * x[j][k] + delta * B[k] * token[j]
            rows.append([sum(C[k] * x[j][k] for k in range(n)) for j in range(d)])
        result.append(rows)
    return torch.tensor(result, dtype=torch.float64)


def make_ssm(seed: int, d_model: int, d_state: int, abscissa: float) -> SelectiveSSM:
    generator = torch.Generator().manual_seed(seed)
    return SelectiveSSM(d_model, d_state, spectral_abscissa=abscissa, generator=generator).double()


shapes = st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None, max_examples=25)
@given(shapes, st.integers(0, 10_000), st.sampled_from([-1.0, -0.1, 0.0, 0.1]))
def test_outputs_are_those_of_the_equations(
    shape: tuple[int, int, int, int], seed: int, abscissa: float
) -> None:
    batch, length, d_model, d_state = shape
    ssm = make_ssm(seed, d_model, d_state, abscissa)
    u = torch.randn(batch, length, d_model, generator=torch.Generator().manual_seed(seed)).double()
    torch.testing.assert_close(ssm(u), outputs_by_the_equations(ssm, u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("abscissa", [-0.5, 0.0, 0.2])
def test_attention_view_gives_the_same_outputs(length: int, abscissa: float) -> None:
    ssm = make_ssm(3, 3, 4, abscissa)
    u = torch.randn(2, length, 3, dtype=torch.float64)
    by_attention = torch.einsum("bcts,bsc->btc", ssm.attention(u), u)
    torch.testing.assert_close(by_attention, ssm(u), rtol=1e-10, atol=1e-10)


def test_attention_is_causal() -> None:
    alpha = make_ssm(0, 2, 2, 0.0).attention(torch.randn(1, 6, 2, dtype=torch.float64))
    assert torch.equal(alpha, alpha.tril())


@pytest.mark.parametrize("length", [1, 2, 33])
@pytest.mark.parametrize("parametrisation", ["free", "stable"])
def test_the_last_output_alone_is_the_last_of_all(length: int, parametrisation: str) -> None:
    model = (
        SelectiveSSMConfig(
            vocab_size=5,
            n_classes=3,
            spectral_abscissa=-0.05,
            parametrisation=parametrisation,  # type: ignore[arg-type]
        )
        .build(torch.Generator().manual_seed(length))
        .double()
    )
    tokens = torch.randint(5, (6, length), generator=torch.Generator().manual_seed(length))
    u = model.embed(tokens)
    in_three_ways = (
        model.ssm(u)[:, -1:],
        model.ssm.last(u),
        model.ssm.last_of_tokens(tokens, model.embedding),
    )
    gradients = [
        torch.autograd.grad(
            model.head(y).square().sum(), list(model.parameters()), retain_graph=True
        )
        for y in in_three_ways
    ]
    for y, gradient in zip(in_three_ways[1:], gradients[1:], strict=True):
        torch.testing.assert_close(y, in_three_ways[0], rtol=1e-11, atol=1e-12)
        for one, other in zip(gradient, gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_large_and_small_vocabularies_are_one_model() -> None:
    """A table of the tokens is a matter of speed: the same rows, the same logits."""
    small = SelectiveSSMConfig(vocab_size=3).build(torch.Generator().manual_seed(1)).double()
    large = SelectiveSSMConfig(vocab_size=1000).build().double()
    weights = dict(small.state_dict())
    weights["embedding"] = torch.cat([small.embedding.detach(), torch.randn(997, 4).double()])
    large.load_state_dict(weights)
    tokens = torch.randint(3, (4, 20))
    torch.testing.assert_close(small(tokens), large(tokens), rtol=1e-11, atol=1e-12)


def test_empty_batch() -> None:
    assert make_ssm(0, 3, 2, 0.0)(torch.zeros(0, 5, 3, dtype=torch.float64)).shape == (0, 5, 3)


@pytest.mark.parametrize("abscissa", [-0.1, 0.0, 0.1])
def test_free_start_attains_the_abscissa_exactly(abscissa: float) -> None:
    ssm = SelectiveSSM(5, 4, spectral_abscissa=abscissa, generator=torch.Generator().manual_seed(1))
    assert ssm.spectral_abscissa == pytest.approx(abscissa, abs=1e-8)
    assert float(ssm.A.detach().min()) >= abscissa - 10 - 1e-5


def test_stable_start_attains_the_abscissa_and_keeps_its_margin_under_any_update() -> None:
    ssm = SelectiveSSM(3, 4, spectral_abscissa=-0.05, parametrisation="stable", margin=0.01)
    assert ssm.spectral_abscissa == pytest.approx(-0.05, rel=1e-5)
    for value in (-1e4, -80.0, 0.0, 80.0):
        with torch.no_grad():
            ssm.state_matrix.A_log.fill_(value)
        assert ssm.spectral_abscissa <= float(torch.tensor(-0.01))


@pytest.mark.parametrize("abscissa", [0.0, -0.001, 0.3])
def test_stable_refuses_an_abscissa_inside_its_margin(abscissa: float) -> None:
    with pytest.raises(InputError, match="not below"):
        SelectiveSSM(3, 4, spectral_abscissa=abscissa, parametrisation="stable", margin=0.001)


@pytest.mark.parametrize(("n_classes", "shape"), [(2, (3,)), (10, (3, 10))])
def test_head_shapes(n_classes: int, shape: tuple[int, ...]) -> None:
    model = SelectiveSSMConfig(vocab_size=7, n_classes=n_classes).build()
    assert model(torch.randint(7, (3, 5))).shape == shape


def test_same_seed_same_model() -> None:
    config = SelectiveSSMConfig(vocab_size=7)
    one, two = (config.build(torch.Generator().manual_seed(5)).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("parametrisation", ["free", "stable"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_class_constants_are_those_of_numpy(parametrisation: str, n_classes: int) -> None:
    config = SelectiveSSMConfig(
        vocab_size=6,
        n_classes=n_classes,
        spectral_abscissa=-0.2,
        parametrisation=parametrisation,  # type: ignore[arg-type]
    )
    model = config.build(torch.Generator().manual_seed(2)).double()
    seen = torch.tensor([True, True, False, True, True, False])
    found = class_constants(model, dict(model.named_parameters()), seen)
    u = model.embedding.detach().numpy()[seen.numpy()]
    W_B, q, p = (getattr(model.ssm, name).detach().numpy() for name in ("W_B", "q", "p"))
    head = model.head.weight.detach().numpy()
    A = model.ssm.A.detach().numpy()
    import numpy as np

    delta = np.log1p(np.exp(p + u @ q))
    B_u = np.linalg.norm(u, axis=1).max()
    lower = np.log1p(np.exp(p - np.linalg.norm(q) * B_u)).item()
    expected = {
        "s_A": A.max(),
        "A_min": A.min(),
        "B_u": B_u,
        "B_q": np.linalg.norm(q),
        "M_q": np.abs(q).sum(),
        "B_B": np.linalg.svd(W_B)[1].max(),
        "M_B": np.abs(W_B).sum(),
        "B_w": np.linalg.norm(head) if head.ndim == 1 else np.linalg.svd(head)[1].max(),
        "M_w": np.abs(head).sum(),
        "delta_min": delta.min(),
        "delta_max": delta.max(),
        "delta_lower": lower,
        "growth": np.exp(A.max() * delta.min()),
        "rho": np.exp(A.max() * lower),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9), name


def test_growth_factor_of_an_unstable_model_uses_the_largest_step() -> None:
    model = SelectiveSSMConfig(vocab_size=4, spectral_abscissa=0.3).build()
    found = class_constants(model, dict(model.named_parameters()), torch.ones(4, dtype=torch.bool))
    assert found["growth"].item() == pytest.approx(
        math.exp(found["s_A"].item() * found["delta_max"].item()), rel=1e-6
    )
    assert found["rho"] >= found["growth"] > 1
