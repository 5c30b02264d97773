import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelback.dynamics import (
    CorrelatedNoise,
    GaussianNoise,
    Locality,
    MajorityVoting,
    StudentNoise,
    rotate,
    sample_patterns,
)
from keelback.dynamics.patterns import stream
from keelback.errors import InputError

SILENT = GaussianNoise(0.0)


@settings(max_examples=40, deadline=None)
@given(
    own=st.integers(1, 12),
    other=st.integers(0, 4),
    classes=st.integers(2, 4),
    extra=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_majority_counts(own, other, classes, extra, seed):
    length = own + other * (classes - 1) + 3
    if own <= other:
        return
    pattern = MajorityVoting(own / length, other / length, length, classes + extra, classes)
    batch = sample_patterns(pattern, 4 * classes, SILENT, stream(seed, 0))
    for features, label in zip(batch.features, batch.labels, strict=True):
        counts = torch.bincount(features, minlength=pattern.dim)[:classes].tolist()
        expected = [other] * classes
        expected[label] = own
        assert counts == expected
    assert torch.equal(batch.tokens.argmax(-1), batch.features)
    assert torch.bincount(batch.labels).tolist() == [4] * classes


def test_majority_positions_and_irrelevant_features_are_uniform():
    pattern = MajorityVoting(0.4, 0.1, 10, 7)
    batch = sample_patterns(pattern, 40_000, SILENT, stream(3, 0))
    own = (batch.features == batch.labels[:, None]).float().mean(0)
    assert torch.allclose(own, torch.full((10,), 0.4), atol=0.012)
    irrelevant = torch.bincount(batch.features.flatten(), minlength=7)[2:].float()
    assert torch.allclose(irrelevant / irrelevant.sum(), torch.full((5,), 0.2), atol=0.006)


@settings(max_examples=40, deadline=None)
@given(
    near=st.integers(1, 6), more=st.integers(1, 8), room=st.integers(0, 6), seed=st.integers(0, 99)
)
def test_locality_separations(near, more, room, seed):
    far = near + more
    pattern = Locality(near, far, far + 3 + room, 5)
    batch = sample_patterns(pattern, 20, SILENT, stream(seed, 0))
    for features, label in zip(batch.features, batch.labels, strict=True):
        own = torch.nonzero(features == label).flatten()
        other = torch.nonzero(features == 1 - label).flatten()
        assert len(own) == len(other) == 2
        assert own[1] - own[0] == near
        assert other[1] - other[0] == far


def test_locality_placements_are_all_valid_ones():
    pattern = Locality(2, 3, 6, 4)
    brute = {(a, b) for a in range(4) for b in range(3) if len({a, a + 2, b, b + 3}) == 4}
    assert {tuple(row) for row in pattern.placements.tolist()} == brute


@pytest.mark.parametrize("classes", [2, 3])
def test_paired_data_exchange_the_classes_in_everything(classes):
    pattern = MajorityVoting(0.4, 0.1, 20, 8, classes)
    batch = sample_patterns(pattern, 4 * classes, GaussianNoise(0.3), stream(1, 0), paired=True)
    tokens = batch.tokens.view(classes, 4, 20, 8)
    for shift in range(1, classes):
        assert torch.equal(tokens[shift][..., classes:], tokens[0][..., classes:])
        for feature in range(classes):
            moved = (feature + shift) % classes
            assert torch.equal(tokens[shift][..., moved], tokens[0][..., feature])
    labels = batch.labels.view(classes, 4)
    assert torch.equal(labels[1], (labels[0] + 1) % classes)
    near = (tokens.flatten(0, 1) - torch.nn.functional.one_hot(batch.features, 8)).std()
    assert 0.25 < near < 0.35


def test_streams_repeat_and_differ():
    pattern = MajorityVoting(0.4, 0.1, 20, 8)
    noise = GaussianNoise(0.1)
    first = sample_patterns(pattern, 8, noise, stream(5, 0))
    again = sample_patterns(pattern, 8, noise, stream(5, 0))
    test = sample_patterns(pattern, 8, noise, stream(5, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.features, test.features)


def test_noise_families_have_the_scale_they_say():
    shape = (400, 20, 12)
    for noise in (GaussianNoise(0.3), StudentNoise(0.3, 5.0), CorrelatedNoise(0.3, 0.5, 0.6)):
        drawn = noise.draw(shape, stream(0, 0))
        assert drawn.dtype == torch.float32
        assert abs(drawn.std().item() - 0.3) < 0.02, noise


def test_student_noise_has_the_tails_of_its_distribution():
    from scipy import stats

    noise = StudentNoise(1.0, 4.0)
    drawn = noise.draw((100, 50, 20), stream(2, 0)).double().flatten().numpy()
    unit = (4 / 2) ** 0.5
    assert stats.kstest(drawn * unit, "t", args=(4.0,)).pvalue > 1e-3
    assert stats.kstest(drawn, "norm").pvalue < 1e-6


def test_correlated_noise_has_the_correlations_it_says():
    drawn = CorrelatedNoise(1.0, 0.5, 0.6).draw((20_000, 4, 3), stream(1, 0)).numpy()
    assert np.corrcoef(drawn[:, 0, 0], drawn[:, 0, 2])[0, 1] == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(drawn[:, 0, 1], drawn[:, 2, 1])[0, 1] == pytest.approx(0.36, abs=0.03)
    assert np.corrcoef(drawn[:, 1, 0], drawn[:, 3, 2])[0, 1] == pytest.approx(0.18, abs=0.03)


def test_rotation_keeps_products_and_moves_features_to_columns():
    pattern = MajorityVoting(0.5, 0.25, 8, 6)
    batch = sample_patterns(pattern, 4, SILENT, stream(0, 0))
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    turned = rotate(batch, basis)
    assert torch.allclose(turned.tokens[0, 0], basis[:, batch.features[0, 0]])
    assert torch.allclose(
        turned.tokens @ turned.tokens.mT, batch.tokens @ batch.tokens.mT, atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MajorityVoting(0.41, 0.1, 30, 32), "not a whole number of the 30 tokens"),
        (lambda: MajorityVoting(0.8, 0.3, 10, 32), "more than the 10 of a sequence"),
        (lambda: MajorityVoting(0.1, 0.4, 10, 32), "must exceed"),
        (lambda: MajorityVoting(0.4, 0.4, 10, 32), "must exceed"),
        (lambda: MajorityVoting(0.4, 0.1, 10, 2), "3 dimensions or more, not 2"),
        (lambda: MajorityVoting(float("nan"), 0.1, 10, 8), "not a whole number"),
        (lambda: MajorityVoting(0.4, 0.1, 0, 8), "at least one token"),
        (lambda: MajorityVoting(0.4, 0.1, 10, 8, classes=1), "at least two classes"),
        (lambda: Locality(0, 3, 10, 8), "1 <= near < far"),
        (lambda: Locality(3, 3, 10, 8), "1 <= near < far"),
        (lambda: Locality(1, 2, 4, 8), "4 tokens without overlap; 5 tokens always do"),
        (lambda: Locality(2, 10, 10, 8), "do not fit"),
        (lambda: Locality(1, 2, 3, 8), "do not fit"),
        (lambda: GaussianNoise(-0.1), "finite number >= 0"),
        (lambda: GaussianNoise(float("nan")), "finite number >= 0"),
        (lambda: StudentNoise(0.1, 2.0), "more than 2 degrees"),
        (lambda: CorrelatedNoise(0.1, 1.5), "in [0, 1]"),
        (lambda: CorrelatedNoise(0.1, 0.5, 1.0), "strictly between -1 and 1"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)


def test_too_few_samples_are_refused():
    pattern = MajorityVoting(0.4, 0.1, 10, 8)
    with pytest.raises(InputError, match="cannot hold all 2 classes"):
        sample_patterns(pattern, 1, SILENT, stream(0, 0))
    with pytest.raises(InputError, match="not a multiple"):
        sample_patterns(pattern, 5, SILENT, stream(0, 0), paired=True)
