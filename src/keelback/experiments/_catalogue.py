"""The experiments that come with keelback, in the order in which they are listed."""

from typing import Any

from keelback.errors import InputError, nearest
from keelback.experiments.experiment import EXPERIMENTS, Experiment, register_experiment
from keelback.experiments.first_paper.baselines import Baselines
from keelback.experiments.first_paper.bound_comparison import BoundComparison
from keelback.experiments.first_paper.data_histograms import DataHistograms
from keelback.experiments.first_paper.length_independence import LengthIndependence
from keelback.experiments.first_paper.stability_margin import StabilityMargin
from keelback.experiments.first_paper.stable_by_construction import StableByConstruction
from keelback.experiments.length.mamba_stack import MambaStack
from keelback.experiments.length.train_short_test_long import TrainShortTestLong
from keelback.experiments.measures.measures import Measures
from keelback.experiments.second_paper.gate_alignment import GateAlignment
from keelback.experiments.second_paper.locality import LocalityExperiment
from keelback.experiments.second_paper.locality_laws import LocalityLaws
from keelback.experiments.second_paper.majority_laws import MajorityLaws
from keelback.experiments.second_paper.majority_voting import MajorityVotingExperiment
from keelback.experiments.second_paper.sample_complexity import SampleComplexity

for _experiment in (
    LengthIndependence,
    StabilityMargin,
    StableByConstruction,
    TrainShortTestLong,
    Baselines,
    MambaStack,
    DataHistograms,
    MajorityVotingExperiment,
    LocalityExperiment,
    LocalityLaws,
    MajorityLaws,
    SampleComplexity,
    GateAlignment,
    BoundComparison,
    Measures,
):
    register_experiment(_experiment)


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
