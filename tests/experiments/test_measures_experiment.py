"""`reproduce measures`: measures against their definitions, the ranking against planted gaps."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keelback.certify import logits, wrong
from keelback.data import Split, get_task
from keelback.experiments import get_experiment
from keelback.experiments.measures.measures import Measures, MeasuresSettings
from keelback.experiments.measures.of_model import (
    CANDIDATES,
    _gradients,
    measure,
    path_norm,
    tail_index,
    tolerated_deviation,
)
from keelback.experiments.measures.ranking import bootstrap_counts, kendall
from keelback.experiments.measures.run import MeasuredRun
from keelback.models import SelectiveClassifier, SelectiveSSMConfig
from keelback.sweeps.store import StoredRun
from keelback.training import Recipe, train

SMALL = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12)


def build(n_classes: int = 2, vocab_size: int = 2, seed: int = 0) -> SelectiveClassifier:
    config = SelectiveSSMConfig(
        vocab_size=vocab_size, n_classes=n_classes, d_model=3, d_state=2, spectral_abscissa=-0.2
    )
    return config.build(torch.Generator().manual_seed(seed))


def tokens_of(vocab_size: int, n_classes: int, examples: int = 12, length: int = 5) -> Split:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab_size, (examples, length), generator=generator, dtype=torch.int32)
    labels = torch.randint(n_classes, (examples,), generator=generator)
    return Split(tokens, labels, torch.full((examples,), length))


@pytest.fixture(scope="module")
def trained() -> tuple[SelectiveClassifier, Split]:
    """A Majority model that has learnt something."""
    split = get_task("majority", seq_len=20, n_train=400, data_seed=3).split("train")
    model = build(seed=5)
    [result] = train([model], [split], Recipe(epochs=15), [5])
    model.load_state_dict(result.weights)
    return model, split


@given(SMALL)
def test_tau_over_all_pairs_is_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    everything = np.ones((len(x), len(x)), dtype=bool)
    found = kendall(x, y, [everything], bootstrap_counts(len(x), 10, seed=0))
    expected = stats.kendalltau(x, y).statistic
    if found is None:
        assert math.isnan(expected)
    else:
        assert found.tau == pytest.approx(expected, abs=1e-12)


def test_resamples_are_taus_of_resampled_models() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30))
    counts = bootstrap_counts(30, 200, seed=1)
    everything = np.ones((30, 30), dtype=bool)
    taus = []
    for row in counts[1:].astype(int):
        models = np.repeat(np.arange(30), row)
        taus.append(stats.kendalltau(x[models], y[models]).statistic)
    found = kendall(x, y, [everything], counts)
    assert found is not None
    assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(taus, [0.025, 0.975])))


def test_strata_see_only_their_own_pairs() -> None:
    """Within each half the measure is right; between the halves, which no stratum holds, wrong."""
    gap = np.array([0.0, 1.0, 10.0, 11.0])
    values = np.array([5.0, 6.0, 1.0, 2.0])
    halves = np.array([0, 0, 1, 1])
    strata = [np.logical_and.outer(halves == h, halves == h) for h in (0, 1)]
    counts = bootstrap_counts(4, 10, seed=0)
    within = kendall(values, gap, strata, counts)
    overall = kendall(values, gap, [np.ones((4, 4), dtype=bool)], counts)
    assert within is not None
    assert overall is not None
    assert (within.tau, within.pairs) == (1.0, 2)
    assert overall.tau == pytest.approx(-1 / 3)


def test_a_measure_that_is_missing_for_a_model_leaves_its_pairs_out() -> None:
    gap = np.array([0.0, 1.0, 2.0])
    counts = bootstrap_counts(3, 10, seed=0)
    everything = [np.ones((3, 3), dtype=bool)]
    found = kendall(np.array([0.0, np.nan, 1.0]), gap, everything, counts)
    assert found is not None
    assert (found.tau, found.pairs) == (1.0, 1)
    assert kendall(np.full(3, 7.0), gap, everything, counts) is None


@pytest.mark.parametrize(("alpha", "law"), [(2.0, stats.norm), (1.0, stats.cauchy)])
def test_tail_index_of_stable_laws(alpha: float, law: stats.rv_continuous) -> None:
    noise = torch.from_numpy(law.rvs(size=(100, 400), random_state=0))
    assert tail_index(noise) == pytest.approx(alpha, abs=0.1)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_path_norm_is_the_sum_over_paths(n_classes: int) -> None:
    model = build(n_classes, vocab_size=3)
    sample = tokens_of(3, n_classes)
    u, ssm = model.embedding.detach().double(), model.ssm
    W_B, W_C = ssm.W_B.detach().double().abs(), ssm.W_C.detach().double().abs()
    head = model.head.weight.detach().double().abs().reshape(-1, 3)
    A, p, q = (x.detach().double() for x in (ssm.A, ssm.p, ssm.q))
    total = 0.0
    for example in sample.tokens.tolist():
        steps = [float(F.softplus(p + u[v] @ q)) for v in example]
        query = W_C @ u[example[-1]].abs()
        for t, token in enumerate(example):
            age, size = sum(steps[t + 1 :]), u[token].abs()
            key = W_B @ size
            for j in range(3):
                state = (query * torch.exp(A[j] * age) * key).sum()
                total += steps[t] * float(head[:, j].mean() * state * size[j])
    assert path_norm(model, sample) == pytest.approx(math.log10(total / len(sample)), abs=1e-5)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_gradients_of_many_batches_are_those_of_each(n_classes: int) -> None:
    model = build(n_classes, vocab_size=3)
    split = tokens_of(3, n_classes)
    picked = torch.tensor([[0, 1, 2], [7, 7, 4]])
    together = _gradients(model, split, picked, own_logit=False)
    for row, index in enumerate(picked):
        z, labels = model(split.tokens[index]), split.labels[index]
        if n_classes == 2:
            loss = F.binary_cross_entropy_with_logits(z, labels.float())
        else:
            loss = F.cross_entropy(z, labels)
        alone = torch.autograd.grad(loss, list(model.parameters()))
        flat = torch.cat([g.flatten() for g in alone]).double()
        torch.testing.assert_close(together[row], flat, rtol=1e-4, atol=1e-6)


def test_noise_of_the_tolerated_deviation_costs_five_points(
    trained: tuple[SelectiveClassifier, Split],
) -> None:
    model, split = trained
    sigma = tolerated_deviation(model, split, torch.Generator().manual_seed(0))
    before = float(wrong(logits(model, split), split.labels).double().mean())
    generator = torch.Generator().manual_seed(99)
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    errors = []
    for _ in range(200):
        noisy = {
            name: x + sigma * torch.randn(x.shape, generator=generator)
            for name, x in weights.items()
        }
        model.load_state_dict(noisy)
        errors.append(float(wrong(logits(model, split), split.labels).double().mean()))
    model.load_state_dict(weights)
    assert np.mean(errors) - before == pytest.approx(0.05, abs=0.03)


def test_margins_follow_the_head(trained: tuple[SelectiveClassifier, Split]) -> None:
    """Doubling the head doubles margins and bounds; what is relative to them stays."""
    model, split = trained
    initial = {name: x.detach() for name, x in build(seed=5).named_parameters()}
    once = measure(model, initial, split, 64, seed=0)
    with torch.no_grad():
        model.head.weight.mul_(2)
    twice = measure(model, initial, split, 64, seed=0)
    with torch.no_grad():
        model.head.weight.div_(2)
    assert twice["margin"] == pytest.approx(2 * once["margin"], rel=1e-4)
    assert twice["relative_margin"] == pytest.approx(once["relative_margin"], rel=1e-4)
    assert twice["published"] == pytest.approx(once["published"] + math.log10(2), abs=1e-6)
    assert twice["published_over_margin"] == pytest.approx(once["published_over_margin"], abs=1e-4)
    assert twice["path_norm"] == pytest.approx(once["path_norm"] + math.log10(2), abs=1e-4)
    assert twice["B_w"] == pytest.approx(2 * once["B_w"])
    assert set(once) == {candidate.key for candidate in CANDIDATES}


def measured_run(**changes: object) -> MeasuredRun:
    fields = {
        "task": "majority",
        "task_settings": {"seq_len": 12, "n_train": 60, "n_test": 50, "data_seed": 1},
        "model": {"kind": "selective-ssm", "vocab_size": 2, "spectral_abscissa": -0.1},
        "recipe": Recipe(epochs=2),
        "seed": 4,
        "fresh_examples": 500,
    }
    return MeasuredRun.model_validate({**fields, **changes})


def test_a_run_measures_its_own_gap() -> None:
    run = measured_run()
    [(_, result)] = MeasuredRun.execute([run], lambda share: None)
    model = SelectiveSSMConfig.model_validate(run.model).build()
    model.load_state_dict(dict(result.weights))
    fresh = get_task("majority", seq_len=12, n_train=500, n_test=500, data_seed=4_000_000_000)
    own = run.get_task().split("train")

    def error(split: Split) -> float:
        return float(wrong(logits(model, split), split.labels).double().mean())

    assert result.summary["gap"] == pytest.approx(error(fresh.split("train")) - error(own))
    assert result.summary["shifted_gap"] == pytest.approx(error(fresh.split("test")) - error(own))
    assert all(result.summary[candidate.key] is not None for candidate in CANDIDATES)


def test_a_run_that_diverges_has_no_measures() -> None:
    run = measured_run(model={"kind": "selective-ssm", "vocab_size": 2, "spectral_abscissa": 60.0})
    [(_, result)] = MeasuredRun.execute([run], lambda share: None)
    assert result.summary["diverged"] is True
    assert all(result.summary[candidate.key] is None for candidate in CANDIDATES)
    assert result.summary["gap"] is None


def stored(settings: MeasuresSettings) -> list[StoredRun]:
    """Results in which the gap is the published bound, the reverse of B_w, and noise otherwise."""
    rng = np.random.default_rng(0)
    found = []
    for run in Measures().runs(settings):
        gap = float(rng.normal())
        summary: dict[str, float | bool | None] = {
            candidate.key: float(rng.normal()) for candidate in CANDIDATES
        }
        summary |= {"gap": gap, "shifted_gap": None, "published": gap**3, "B_w": -gap}
        summary |= {"margin": -gap, "diverged": False}
        found.append(StoredRun(run.name, Path(), run.fields(), summary, {}))
    return found


def test_planted_measures_are_found() -> None:
    settings = MeasuresSettings(quick=True, seeds=2)
    results = stored(settings)
    outcome = Measures().outcome(settings, results)
    rows = {row["key"]: row for row in outcome.numbers["measures"]}  # type: ignore[attr-defined]
    assert rows["published"]["granulated"]["tau"] == 1.0
    assert rows["published"]["verdict"] == "useful"
    assert rows["margin"]["verdict"] == "useful", "a margin counts with its sign turned"
    assert rows["B_w"]["overall"]["tau"] == -1.0
    assert rows["B_w"]["verdict"] == "wrong way round"
    assert rows["twin"]["verdict"] == "reference"
    noise = [row for key, row in rows.items() if key not in ("published", "margin", "B_w")]
    assert sum(row["verdict"] in ("useful", "wrong way round") for row in noise) <= 1
    assert outcome.claims[1].holds is True


def test_diverged_trainings_are_counted_and_left_out() -> None:
    settings = MeasuresSettings(quick=True)
    results = stored(settings)
    gone = dict.fromkeys([*results[0].summary], None) | {"diverged": True}
    results[0] = StoredRun(results[0].name, Path(), results[0].fields, gone, {})
    outcome = Measures().outcome(settings, results)
    assert outcome.numbers["models"] == len(results) - 1
    assert any("1 trainings diverged" in note for note in outcome.notes)


def test_the_design_trains_enough_models_and_seeds_only_add() -> None:
    two = Measures().runs(MeasuresSettings(seeds=2))
    three = Measures().runs(MeasuresSettings(seeds=3))
    assert len({run.name for run in two}) == len(two) >= 200
    assert [run.name for run in three[: len(two)]] == [run.name for run in two]
    assert len({run.task_settings["data_seed"] for run in three}) == len(three)
    assert get_experiment("measures").name == "measures"
