"""Every experiment by name."""

from typing import Any

from keelback.errors import InputError, nearest
from keelback.experiments.baselines import Baselines
from keelback.experiments.bound_comparison import BoundComparison
from keelback.experiments.data_histograms import DataHistograms
from keelback.experiments.experiment import Experiment
from keelback.experiments.gate_alignment import GateAlignment
from keelback.experiments.length_independence import LengthIndependence
from keelback.experiments.locality import LocalityExperiment
from keelback.experiments.majority_voting import MajorityVotingExperiment
from keelback.experiments.mamba_stack import MambaStack
from keelback.experiments.measures import Measures
from keelback.experiments.sample_complexity import SampleComplexity
from keelback.experiments.stability_margin import StabilityMargin
from keelback.experiments.stable_by_construction import StableByConstruction
from keelback.experiments.train_short_test_long import TrainShortTestLong

EXPERIMENTS: dict[str, Experiment[Any]] = {
    experiment.name: experiment
    for experiment in (
        LengthIndependence(),
        StabilityMargin(),
        StableByConstruction(),
        TrainShortTestLong(),
        Baselines(),
        MambaStack(),
        DataHistograms(),
        MajorityVotingExperiment(),
        LocalityExperiment(),
        SampleComplexity(),
        GateAlignment(),
        BoundComparison(),
        Measures(),
    )
}
"""A new experiment adds itself here."""


def get_experiment(name: str) -> Experiment[Any]:
    """The experiment `name`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise InputError(
            f"unknown experiment {name!r}{nearest(name, list(EXPERIMENTS))}"
            f"; there are {', '.join(sorted(EXPERIMENTS))}"
        )
    return EXPERIMENTS[name]
