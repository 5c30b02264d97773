"""Sizes that no machine has memory for are refused before anything is made of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]

HUGE = 10**12
TRAINED = "train --task majority --out new"
REPRODUCED = "reproduce {} --no-report --out new"


@pytest.mark.parametrize(
    "command",
    [
        f"{TRAINED} --seq-len {HUGE}",
        f"{TRAINED} --seq-len 9 --epochs {HUGE}",
        f"{TRAINED} --seq-len 9 --set task_settings.n_train={HUGE}",
        f"{TRAINED} --seq-len 9 --model mamba-stack --set model.n_layers={HUGE}",
        f"{TRAINED} --seq-len 9 --model mamba-stack --set model.d_model={10**8}",
        *(
            f"{REPRODUCED.format(experiment)} {sizes}"
            for experiment, sizes in (
                ("length-independence", f"--seeds {HUGE}"),
                ("length-independence", f"--seq-len 9,{HUGE}"),
                ("length-independence", f"--set epochs={HUGE}"),
                ("stability-margin", f"--seeds {HUGE}"),
                ("measures", f"--seeds {HUGE}"),
                ("measures", f"--set fresh_examples={HUGE}"),
                ("mamba-stack", f"--seeds {HUGE}"),
                ("train-short-test-long", f"--set factors=1,{HUGE}"),
                ("data-histograms", f"--seq-len {HUGE}"),
                ("majority-voting", f"--set trials={HUGE}"),
                ("locality-laws", f"--set trials={HUGE}"),
                ("sample-complexity", f"--set trials={HUGE}"),
                ("gate-alignment", f"--set trials={HUGE}"),
                ("all", f"--seeds {HUGE}"),
            )
        ),
        f"dynamics --length {HUGE}",
        f"dynamics --samples {HUGE}",
        f"dynamics --dim {HUGE}",
        f"dynamics --width {HUGE}",
        f"bench scan --shape 1,{HUGE},64,16",
        f"bench scan --memory --shape 1,{HUGE},64,16",
        f"bench scan --repeats {HUGE}",
        f"bench call --shape 1,{HUGE},2,2",
        f"bench conv --shape 8,{HUGE},64",
        f"bench delta --shape 1,{HUGE},2,4,4,1",
        f"bench ssd --shape 1,{HUGE},2,4,4,1",
        f"bench decode --batch {HUGE}",
        f"bench decode --state {HUGE}",
        f"bench dynamics --replicas {HUGE}",
        f"bench audit --length {HUGE}",
        f"bench audit --layers {HUGE}",
        f"bench transformers --d-model {HUGE}",
        f"bench family-speed --length {HUGE}",
        f"bench parallel --processes {10**6} --length {10**6}",
        f"bench parallel --only scan --length {HUGE}",
        f"bench parallel --only training --batch {HUGE}",
        f"bench sweep --empty-runs {HUGE}",
        f"bench sweep --seeds {HUGE}",
        f"bench sweep --seq-len {HUGE}",
        f"bench monitor --seeds {HUGE}",
    ],
)
def test_a_size_is_refused_with_the_bytes_that_it_would_take(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*command.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert ("would take" in err and "are free" in err) or "; it should be a whole number" in err
    assert list(tmp_path.iterdir()) == []


def test_seeds_and_lengths_that_fit_are_planned() -> None:
    from keelback.experiments import get_experiment

    experiment = get_experiment("train-short-test-long")
    settings = experiment.settings({"factors": "1, 2", "seq_len": "8", "seeds": 3})
    runs = experiment.planned(settings)
    assert list(runs) == list(experiment.runs(settings))
    assert {run.fields()["test_lengths"][-1] for run in runs} == {16}


def test_layers_are_counted_without_building_them() -> None:
    from keelback.models import model_config
    from keelback.models._registry import _weights_of

    config = model_config({"kind": "mamba-stack", "vocab_size": 3, "n_layers": 5})
    assert _weights_of(config) == sum(x.numel() for x in config.build().parameters())
