import pytest
import torch

from keelback.dynamics.gated import GatedSSM, class_readout, hinge_loss, log_decay
from keelback.errors import InputError


def model_and_tokens(length=9, dim=5, mixing="gaussian", scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = GatedSSM(dim, 6, mixing=mixing, train_mixing=True, generator=generator).double()
    with torch.no_grad():
        model.w.copy_(scale * torch.randn(dim, generator=generator, dtype=torch.float64))
    return model, torch.randn(3, length, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("mixing", ["identity", "orthogonal", "gaussian"])
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("form", ["quadratic", "scan"])
def test_forms_agree_with_the_definition(mixing, length, form):
    model, tokens = model_and_tokens(length=length, mixing=mixing)
    expected = model(tokens, "recurrent")
    found = model(tokens, form)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weights = [model.w, model.W_O, model.W_B, model.W_C]
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), weights),
        torch.autograd.grad(expected.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("scale", [40.0, 400.0])
def test_forms_agree_where_gates_saturate(scale):
    model, tokens = model_and_tokens(scale=scale)
    expected = model(tokens, "recurrent")
    assert torch.isfinite(expected).all()
    for form in ("quadratic", "scan"):
        found = model(tokens, form)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        gradient = torch.autograd.grad(found.sum(), model.w)[0]
        assert torch.isfinite(gradient).all()


def test_orthogonal_mixing_is_the_identity_for_the_model():
    identity, tokens = model_and_tokens(mixing="identity")
    orthogonal, _ = model_and_tokens(mixing="orthogonal")
    with torch.no_grad():
        orthogonal.w.copy_(identity.w)
        orthogonal.W_O.copy_(identity.W_O)
    torch.testing.assert_close(orthogonal(tokens), identity(tokens))


def test_decay_is_the_product_of_the_gates():
    logits = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = torch.sigmoid(logits)
    decay = log_decay(logits).exp()
    for position in range(6):
        for source in range(6):
            expected = g[source] * torch.prod(1 - g[source + 1 : position + 1])
            expected = expected if source <= position else torch.zeros(())
            assert decay[position, source] == pytest.approx(expected.item(), rel=1e-12, abs=0)


def test_inflow_and_what_is_kept_sum_to_one():
    logits = 3 * torch.randn(4, 20, generator=torch.Generator().manual_seed(2)).double()
    total = log_decay(logits).exp().sum(-1)
    lost = torch.sigmoid(-logits).cumprod(-1)
    torch.testing.assert_close(total + lost, torch.ones_like(total))


def test_readouts_balance_the_classes():
    two, three = class_readout(8), class_readout(9, 3)
    assert torch.equal(two[:4], -two[4:])
    assert torch.allclose(two.norm(), torch.ones(()))
    torch.testing.assert_close(three.sum(0), torch.zeros(3), atol=1e-7, rtol=0)
    torch.testing.assert_close(three.sum(1), torch.zeros(9), atol=1e-7, rtol=0)
    assert torch.equal(three.argmax(1), torch.arange(9) // 3)


def test_hinge_for_many_classes_contains_the_one_for_two():
    scores = torch.tensor([[0.3], [-0.2], [1.4]])
    labels = torch.tensor([0, 0, 1])
    columns = torch.cat([scores / 2, -scores / 2], 1)
    torch.testing.assert_close(hinge_loss(columns, labels), hinge_loss(scores, labels))
    torch.testing.assert_close(hinge_loss(scores, labels), torch.tensor([0.7, 1.2, 2.4]))


def test_options_say_what_is_trained():
    model = GatedSSM(4, 6, classes=3, train_gate=False)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"W_O"}
    assert model(torch.randn(2, 5, 4)).shape == (2, 3)
    model = GatedSSM(4, 6, train_mixing=True)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"w", "W_O", "W_B", "W_C"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatedSSM(4, 51), "odd widths"),
        (lambda: GatedSSM(4, 0), "multiple of 2"),
        (lambda: GatedSSM(4, 10, classes=3), "multiple of 3"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
