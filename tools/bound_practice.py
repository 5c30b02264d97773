"""Does training by the sharpened bound narrow the gap? Majority, paired seeds.

    python tools/bound_practice.py --out results/experiments/bound-practice/results.json

Trains the selective SSM of arXiv 2502.01473 on Majority, with the recipe as it is, with penalties
on the bound (`bound_penalty`), and from initial values that it scales (`initial_sensitivity`).
Every way starts from the same seeds: the same data, the same initial values up to the scaling, the
same order. The gap is the error on fresh examples of the training distribution less the training
error. Each way is compared with the plain one seed by seed; intervals are 95 % bootstrap intervals
of the mean difference. All ways that were tried stand in the table.
"""

import argparse
import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import result_file
from keelback.data import get_task
from keelback.models import SelectiveSSMConfig, log_gate_sensitivity
from keelback.training import Recipe, accuracy, train

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "penalty 0.001": ({"bound_penalty": 0.001}, {}),
    "penalty 0.01": ({"bound_penalty": 0.01}, {}),
    "penalty 0.1": ({"bound_penalty": 0.1}, {}),
    "start at 100": ({}, {"initial_sensitivity": 100.0}),
    "start at 10000": ({}, {"initial_sensitivity": 1e4}),
    "start at 10000, penalty 0.01": ({"bound_penalty": 0.01}, {"initial_sensitivity": 1e4}),
}
FRESH = 5000
RESAMPLES = 10_000


@dataclass(frozen=True)
class Outcome:
    """What one training left; errors are shares."""

    seed: int
    train_error: float
    fresh_error: float
    log10_sensitivity: float
    diverged: bool

    @property
    def gap(self) -> float:
        return self.fresh_error - self.train_error


def trained(way: str, seeds: range, options: argparse.Namespace) -> list[Outcome]:
    """One training per seed, all as one batch."""
    of_recipe, of_model = WAYS[way]
    tasks = [
        get_task("majority", seq_len=options.seq_len, n_train=options.examples, n_test=1,
                 data_seed=seed)
        for seed in seeds
    ]  # fmt: skip
    fields = {"vocab_size": 2, "initial_length": options.seq_len, **of_model}
    config = SelectiveSSMConfig.model_validate(fields)
    models = [config.build(torch.Generator().manual_seed(seed)) for seed in seeds]
    splits = [task.split("train") for task in tasks]
    recipe = Recipe(epochs=options.epochs, **of_recipe)
    found = []
    for seed, result in zip(seeds, train(models, splits, recipe, list(seeds)), strict=True):
        model = models[0]
        model.load_state_dict(result.weights)
        fresh = get_task("majority", seq_len=options.seq_len, n_train=FRESH, n_test=1,
                         data_seed=10_000 + seed).split("train")  # fmt: skip
        sensitivity = log_gate_sensitivity(model, result.weights, options.seq_len)
        found.append(
            Outcome(
                seed=seed,
                train_error=1 - accuracy(model, splits[seed - seeds.start]),
                fresh_error=1 - accuracy(model, fresh),
                log10_sensitivity=float(sensitivity.detach()) / math.log(10),
                diverged=result.divergence is not None,
            )
        )
    return found


def interval(values: Iterable[float]) -> list[float]:
    """Mean and 95 % bootstrap interval of it."""
    own = np.array(list(values))
    draws = np.random.default_rng(0).choice(own, (RESAMPLES, len(own))).mean(1)
    return [float(own.mean()), *map(float, np.quantile(draws, (0.025, 0.975)))]


def summary(own: list[Outcome], plain: list[Outcome]) -> dict[str, Any]:
    """Means, and the paired differences from the plain way."""
    return {
        "train_error": interval(x.train_error for x in own),
        "fresh_error": interval(x.fresh_error for x in own),
        "gap": interval(x.gap for x in own),
        "log10_sensitivity": interval(x.log10_sensitivity for x in own),
        "gap_less_plain": interval(x.gap - y.gap for x, y in zip(own, plain, strict=True)),
        "fresh_error_less_plain": interval(
            x.fresh_error - y.fresh_error for x, y in zip(own, plain, strict=True)
        ),
        "diverged": sum(x.diverged for x in own),
    }


def verdict(found: dict[str, Any]) -> str:
    """What the paired intervals say."""
    says = []
    for name, what in (("gap_less_plain", "gap"), ("fresh_error_less_plain", "error")):
        _, low, high = found[name]
        sign = "smaller" if high < 0 else "larger" if low > 0 else "no difference"
        says.append(f"{what}: {sign}")
    return ", ".join(says)


def table(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """One row per way."""
    rows = [
        [
            way,
            *(f"{own[name][0]:.4f}" for name in ("train_error", "fresh_error", "gap")),
            *(
                "{:+.4f} ({:+.4f} to {:+.4f})".format(*own[name])
                for name in ("gap_less_plain", "fresh_error_less_plain")
            ),
            f"{own['log10_sensitivity'][0]:.2f}",
            "" if way == "plain" else verdict(own),
        ]
        for way, own in found.items()
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["training", "training error", "fresh error", "gap", "gap less the plain one's",
             "fresh error less the plain one's", "log10 of the bound's factor", "verdict"]
        )  # fmt: skip
        writer.writerows(rows)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=60, help="number of seeds")
    options.add_argument("--seq-len", type=int, default=50, help="length of the strings")
    options.add_argument("--examples", type=int, default=200, help="training examples per seed")
    options.add_argument("--epochs", type=int, default=40, help="epochs of each training")
    result_file.add_options(options)
    return options


def main() -> None:
    options = parser().parse_args()
    record = result_file.started(options)
    torch.set_num_threads(1)
    outcomes = {way: trained(way, range(1, options.seeds + 1), options) for way in WAYS}
    found = {way: summary(own, outcomes["plain"]) for way, own in outcomes.items()}
    runs = {way: [vars(own) for own in made] for way, made in outcomes.items()}
    result_file.write(options, record, {"summary": found, "runs": runs})
    if options.out is not None:
        table(options.out.with_suffix(".csv"), found)


if __name__ == "__main__":
    main()
