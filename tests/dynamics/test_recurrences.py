import pytest
import torch

from keelback.dynamics import GaussianNoise, MajorityVoting, sample_patterns
from keelback.dynamics.descent_of_models import train_models
from keelback.dynamics.gated import GatedSSM
from keelback.dynamics.gated_mamba import PatternMamba
from keelback.dynamics.patterns import stream
from keelback.dynamics.recurrences import (
    FixedDecay,
    GatedDeltaRule,
    GatedLinearAttention,
    GatedMixer,
    PatternClassifier,
    SoftmaxAttention,
)
from keelback.errors import InputError

DIM, LENGTH = 5, 7
MIXERS = {
    "gated": lambda: GatedMixer(DIM),
    "frozen": lambda: GatedMixer(DIM, frozen=True),
    "linear": lambda: GatedLinearAttention(DIM),
    "delta": lambda: GatedDeltaRule(DIM),
    "fixed": lambda: FixedDecay(0.7),
    "softmax": lambda: SoftmaxAttention(DIM, LENGTH),
    "window": lambda: SoftmaxAttention(DIM, LENGTH, window=3, positions=True),
}


def tokens(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, LENGTH, DIM, generator=generator, dtype=torch.float64)


def randomised(mixer, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mixer = mixer.double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.7 * torch.randn(parameter.shape, generator=generator).double()
    return mixer


@pytest.mark.parametrize("name", MIXERS)
def test_states_depend_on_the_past_alone(name):
    mixer, x = randomised(MIXERS[name]()), tokens()
    changed = x.clone()
    changed[:, 4:] = tokens(seed=9)[:, 4:]
    before, after = mixer(x), mixer(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_gated_mixer_is_the_gated_ssm():
    mixer = randomised(GatedMixer(DIM))
    model = GatedSSM(DIM, 4).double()
    model.load_state_dict({**model.state_dict(), **mixer.state_dict()})
    torch.testing.assert_close(mixer(tokens()), model.mixed(tokens(), "recurrent"))


def test_gated_linear_attention_is_its_recurrence():
    mixer, x = randomised(GatedLinearAttention(DIM)), tokens()
    alpha = torch.sigmoid(x @ mixer.W_alpha.T + mixer.b)
    S = torch.zeros(3, DIM, DIM, dtype=torch.float64)
    for step in range(LENGTH):
        S = alpha[:, step, :, None] * S + x[:, step, :, None] * x[:, step, None, :]
        torch.testing.assert_close(mixer(x)[:, step], (x[:, step, None] @ S)[:, 0])


def test_gated_delta_rule_is_its_formula():
    mixer, x = randomised(GatedDeltaRule(DIM)), tokens()
    keys = x / x.norm(dim=-1, keepdim=True)
    S = torch.zeros(3, DIM, DIM, dtype=torch.float64)
    for step in range(LENGTH):
        k, v = keys[:, step, :, None], x[:, step, :, None]
        alpha = torch.sigmoid(x[:, step] @ mixer.w_alpha)[:, None, None]
        beta = torch.sigmoid(x[:, step] @ mixer.w_beta)[:, None, None]
        S = alpha * S @ (torch.eye(DIM).double() - beta * k @ k.mT) + beta * v @ k.mT
        torch.testing.assert_close(mixer(x)[:, step], (S @ v)[..., 0])


def test_fixed_decay_is_a_frozen_gate_at_one_half():
    torch.testing.assert_close(
        FixedDecay(0.5)(tokens()), GatedMixer(DIM, frozen=True).double()(tokens())
    )


def test_softmax_attention_averages_what_it_sees():
    x = tokens()
    torch.testing.assert_close(SoftmaxAttention(DIM, LENGTH).double()(x)[:, 5], x[:, :6].mean(1))
    windowed = SoftmaxAttention(DIM, LENGTH, window=2).double()(x)
    torch.testing.assert_close(windowed[:, 5], x[:, 4:6].mean(1))
    biased = SoftmaxAttention(DIM, LENGTH, positions=True).double()
    with torch.no_grad():
        biased.bias[1] = 50.0
    torch.testing.assert_close(biased(x)[:, 5], x[:, 4])


def test_mamba_step_sizes_drive_its_blocks():
    model = PatternMamba(DIM, d_model=16, n_layers=2, generator=torch.Generator().manual_seed(0))
    x = tokens().float()
    found = model.step_sizes(x)
    assert [delta.shape for delta in found] == [(3, LENGTH, 32)] * 2
    assert all((delta > 0).all() for delta in found)
    before = model(x)
    with torch.no_grad():
        for block in model.blocks:
            block.delta_bias.fill_(-60.0)
    assert all((delta < 1e-6).all() for delta in model.step_sizes(x))
    assert not torch.allclose(model(x), before)


def patterned(trials, samples=64, noise=0.05):
    pattern = MajorityVoting(0.5, 0.1, 10, DIM)
    return [
        [sample_patterns(pattern, samples, GaussianNoise(noise), stream(s, p)) for s in trials]
        for p in (0, 1)
    ]


@pytest.mark.parametrize("name", ["gated", "frozen", "linear", "delta", "fixed"])
def test_models_train_side_by_side_as_they_do_alone(name):
    train, test = patterned(range(3))

    def build():
        return [
            PatternClassifier(MIXERS[name](), DIM, 4, generator=stream(seed, 2))
            for seed in range(3)
        ]

    options = {"optimizer": "adam", "step_size": 0.02, "steps": 15, "batch_size": 16}
    together, alone = build(), build()
    found = train_models(together, train, test, seeds=[0, 1, 2], **options)
    for r in range(3):
        (single,) = train_models(
            [alone[r]], train[r : r + 1], test[r : r + 1], seeds=[r], **options
        )
        assert single.test_loss == pytest.approx(found[r].test_loss, rel=1e-3, abs=1e-4)
        for (key, ours), theirs in zip(
            together[r].named_parameters(), alone[r].parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4, msg=key)


def test_gradient_descent_is_the_closed_form():
    """The harness and the batched trainer of the gated SSM are two ways to one result."""
    from keelback.dynamics.descent import GatedTraining, train_gated

    training = GatedTraining(
        MajorityVoting(0.5, 0.1, 10, DIM),
        GaussianNoise(0.05),
        samples=64,
        test_samples=64,
        width=4,
        epochs=30,
        target=None,
    )
    expected = train_gated([training])[0]
    train, test = patterned([0])
    model = PatternClassifier(GatedMixer(DIM), DIM, 4, generator=stream(0, 2))
    (found,) = train_models([model], train, test, optimizer="gd", step_size=0.5, steps=30)
    torch.testing.assert_close(
        model.mixer.w.detach(), torch.tensor(expected.gating[-1]), rtol=1e-3, atol=1e-6
    )
    assert found.test_loss[-1] == pytest.approx(expected.test_loss[-1], rel=1e-4)


def test_what_is_frozen_stays():
    train, test = patterned(range(2))
    models = [PatternClassifier(GatedMixer(DIM, frozen=True), DIM, 4) for _ in range(2)]
    train_models(models, train, test, optimizer="sgd", step_size=0.5, steps=5, batch_size=8)
    assert all(not model.mixer.w.any() for model in models)


def test_three_classes_and_mamba_learn():
    pattern = MajorityVoting(0.5, 0.1, 10, 6, classes=3)
    train, test = (
        [sample_patterns(pattern, 120, GaussianNoise(0.02), stream(0, p))] for p in (0, 1)
    )
    model = PatternClassifier(GatedMixer(6), 6, 9, classes=3, generator=stream(0, 2))
    (found,) = train_models([model], train, test, optimizer="gd", step_size=2.0, steps=150)
    assert found.test_accuracy[-1] > 0.97
    train, test = patterned([0], samples=128)
    model = PatternMamba(DIM, d_model=16, generator=stream(0, 2))
    (found,) = train_models(
        [model], train, test, optimizer="adam", step_size=0.01, steps=40, batch_size=32
    )
    assert found.test_accuracy[-1] > 0.95


def test_divergence_is_reported():
    train, test = patterned([0], noise=5.0)
    model = PatternClassifier(GatedMixer(DIM), DIM, 4)
    (found,) = train_models([model], train, test, optimizer="gd", step_size=3e38, steps=5)
    assert found.diverged
    assert found.steps_to_accuracy is None


def test_bad_input_is_refused():
    train, test = patterned([0])
    model = PatternClassifier(FixedDecay(), DIM, 4)
    options = {"optimizer": "sgd", "step_size": 0.1, "steps": 1}
    with pytest.raises(InputError, match="at least one trial"):
        train_models([], [], [], **options)
    with pytest.raises(InputError, match="needs its training and test"):
        train_models([model], train * 2, test, **options)
    with pytest.raises(InputError, match="needs a batch size"):
        train_models([model], train, test, **options)
    with pytest.raises(InputError, match="between 1 and 64"):
        train_models([model], train, test, batch_size=65, **options)
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        FixedDecay(1.0)
    with pytest.raises(InputError, match="at least one token"):
        SoftmaxAttention(DIM, LENGTH, window=0)
