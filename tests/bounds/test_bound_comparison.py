"""`reproduce bound-comparison`: what it fits is what the theory says."""

import math
from pathlib import Path

import pytest
import torch

from keelback.bounds import published_log_rademacher
from keelback.certify import measure_constants
from keelback.errors import InputError
from keelback.experiments._shared.bound_run import BoundRun
from keelback.experiments.first_paper.bound_comparison import (
    BoundComparison,
    BoundComparisonSettings,
)
from keelback.models import SelectiveSSMConfig, load_model, save_model
from keelback.sweeps.store import StoredRun


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    config = SelectiveSSMConfig(vocab_size=2, spectral_abscissa=-0.1)
    save_model(config.build(torch.Generator().manual_seed(0)), folder / "majority_T60.safetensors")
    return folder


@pytest.fixture(scope="module")
def stored(checkpoints: Path) -> list[StoredRun]:
    runs = BoundComparison().runs(BoundComparisonSettings(quick=True, checkpoints=checkpoints))
    return [
        StoredRun(run.name, checkpoints, run.fields(), result.summary, {})
        for run, result in BoundRun.execute(runs, lambda share: None)
    ]


def test_fitted_exponents_are_those_of_the_theory(
    checkpoints: Path, stored: list[StoredRun]
) -> None:
    settings = BoundComparisonSettings(quick=True, checkpoints=checkpoints)
    found = BoundComparison().outcome(settings, stored)
    rows = {row["bound"]: row for row in found.numbers["exponents"]}  # type: ignore[attr-defined]
    published, sharpened = rows["published"], rows["sharpened"]
    assert published["T_marginal"] == pytest.approx(2, abs=0.05)
    assert sharpened["T_marginal"] == pytest.approx(1, abs=0.05)
    assert published["T_unstable"] == pytest.approx(1, abs=0.1)
    assert published["gate_rate"] > 1.5
    assert sharpened["gate_rate"] < 0.2
    assert all(row["m"] == pytest.approx(-0.5, abs=0.03) for row in rows.values())
    assert rows["linear_attention"]["T_stable"] == pytest.approx(1, abs=0.05)
    assert rows["lti"]["B_u"] == pytest.approx(1, abs=0.1)
    assert all(claim.holds for claim in found.claims)
    [distance] = found.numbers["checkpoints"]  # type: ignore[misc]
    model = load_model(checkpoints / "majority_T60.safetensors")
    direct = published_log_rademacher(measure_constants(model, 60, 1000)) / math.log(10)
    assert distance["published"] == pytest.approx(direct)


def test_without_checkpoints_it_says_so(stored: list[StoredRun]) -> None:
    found = BoundComparison().outcome(BoundComparisonSettings(quick=True), stored)
    assert found.numbers["checkpoints"] == []
    assert "No checkpoints" in found.notes[0]


def test_folders_without_models_and_unknown_names_are_refused(tmp_path: Path) -> None:
    experiment = BoundComparison()
    with pytest.raises(InputError, match="holds no checkpoints"):
        experiment.runs(BoundComparisonSettings(checkpoints=tmp_path / "none"))
    (tmp_path / "parity_T9.pth").touch()
    with pytest.raises(InputError, match=r"parity_T9\.pth should be named"):
        experiment.runs(BoundComparisonSettings(checkpoints=tmp_path))
