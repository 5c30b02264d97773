"""A setting that is given twice is refused, whichever of the two would count."""

from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]
TRAIN = "train --task majority --out o"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate c --task majority --set n_test=5 --set n_test=6", "--set n_test is given twice"),
        (
            "evaluate c --task majority --seq-len 20 --set seq_len=5",
            "--seq-len and --set seq_len are one setting",
        ),
        (
            "certify c --task majority --data-seed 3 --set data_seed=4",
            "--data-seed and --set data_seed are one setting",
        ),
        (
            "reproduce length-independence --seeds 2 --set seeds=3 --no-report",
            "--seeds and --set seeds are one setting",
        ),
        (
            f"{TRAIN} --epochs 1 --set recipe.epochs=2",
            "--epochs and --set recipe.epochs are one setting",
        ),
        (
            f"{TRAIN} --abscissa 0 --set model.spectral_abscissa=1",
            "--abscissa and --set model.spectral_abscissa are one setting",
        ),
        (
            f"{TRAIN} --seq-len 5 --set task_settings.seq_len=7",
            "--seq-len and --set task_settings.seq_len are one setting",
        ),
        (
            f"{TRAIN} --set recipe.epochs=1 --set recipe.epochs=1",
            "--set recipe.epochs is given twice",
        ),
        ("byte-lm --out o --set steps=1 --set steps=2", "--set steps is given twice"),
    ],
)
def test_it_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*command.split())
    assert (code, out, err) == (2, "", f"error: {said}; leave one of them out\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.vocab_size=1", "model.vocab_size is 1; it should be 2, as in the task majority"),
        ("model.n_classes=3", "model.n_classes is 3; it should be 2, as in the task majority"),
        (
            "recipe.learning_rate=1e39",
            "training run: recipe.learning_rate is 1e+39; it should be at most 1e+30",
        ),
    ],
)
def test_a_training_that_could_not_run_is_refused_before_it_is_noted(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*TRAIN.split(), "--set", setting)
    assert (code, out, err) == (2, "", f"error: {said}\n")
    assert list(tmp_path.iterdir()) == []
