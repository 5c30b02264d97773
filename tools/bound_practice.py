"""Does training by the sharpened bound narrow the gap? Paired seeds, on three tasks.

    python tools/bound_practice.py --out results/experiments/bound-practice/results.json
    python tools/bound_practice.py --task imdb --data ../shared/data/imdb \\
        --tokenizer ../shared/data/bert-base-uncased/vocab.txt \\
        --out results/experiments/bound-practice-imdb/results.json
    python tools/bound_practice.py --task bytes --data ../shared/data/imdb \\
        --out results/experiments/bound-practice-bytes/results.json

Trains the selective SSM of arXiv 2502.01473 with the recipe as it is, with penalties on the bound
(`bound_penalty`), and from initial values that it scales (`initial_sensitivity`). Tasks: Majority;
the sign of film reviews (`imdb`), cut to their first tokens; the next byte of film reviews
(`bytes`), a byte model that reads a window and predicts what follows it. Every way starts from the
same seeds: the same data, the same initial values up to the scaling, the same order. The gap is the
error on fresh examples of the training distribution less the training error. Each way is compared
with the plain one seed by seed; intervals are 95 % bootstrap intervals of the mean difference. All
ways that were tried stand in the table.

Seeds are trained in groups, each in every way before the next group begins. With `--parts FILE`
what is done is kept there, and a run that was stopped goes on from it; fewer `--seeds` then make
the result of what there is.
"""

import argparse
import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import result_file
from keelback.data import Split, get_task
from keelback.data.reviews import find_reviews
from keelback.files import write_json
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
RESAMPLES = 10_000
GROUP = 12
LARGEST_GROUP = 60


@dataclass(frozen=True)
class Setting:
    """What a task is trained with where no option says otherwise.

    Attributes:
        seeds: how many.
        seq_len: tokens of an example.
        examples: for training, per seed.
        fresh: examples for the fresh error, per seed.
        epochs: of each training.
        group: seeds that are trained as one batch.
        model: settings of the model besides.
    """

    seeds: int
    seq_len: int
    examples: int
    fresh: int
    epochs: int
    group: int
    model: dict[str, int]


SETTINGS = {
    "majority": Setting(60, 50, 200, 5000, 40, LARGEST_GROUP, {"vocab_size": 2}),
    "imdb": Setting(36, 64, 2000, 2000, 10, GROUP, {"vocab_size": 30_522}),
    "bytes": Setting(
        24, 16, 4000, 4000, 20, GROUP,
        {"vocab_size": 256, "n_classes": 256, "d_model": 16, "d_state": 4},
    ),
}  # fmt: skip


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


def splits_of(seed: int, options: argparse.Namespace) -> tuple[Split, Split]:
    """Training examples and fresh ones of a seed; those of reviews come from other reviews."""
    count, fresh = options.examples, options.fresh
    if options.task == "majority":
        shape = {"seq_len": options.seq_len, "n_test": 1}
        own = get_task("majority", n_train=count, data_seed=seed, **shape)
        other = get_task("majority", n_train=fresh, data_seed=10_000 + seed, **shape)
        return own.split("train"), other.split("train")
    if options.task == "imdb":
        both = get_task(
            "imdb", seq_len=options.seq_len, n_train=count + fresh, data_seed=seed,
            data=options.data, tokenizer=options.tokenizer,
        ).split("train")  # fmt: skip
        return both.first(count), part(both, count)
    return windows_of(options.texts, seed, options)


def part(split: Split, start: int) -> Split:
    """The examples from `start` on."""
    return Split(split.tokens[start:], split.labels[start:], split.lengths[start:])


def windows_of(
    texts: Sequence[bytes], seed: int, options: argparse.Namespace
) -> tuple[Split, Split]:
    """Windows of bytes, labelled with the byte that follows, at most one per review."""
    length, wanted = options.seq_len, (options.examples, options.fresh)
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(texts))
    found: list[np.ndarray[Any, Any]] = []
    for row in rows:
        if len(found) == sum(wanted):
            break
        if len(texts[row]) > length:
            start = int(draw.integers(len(texts[row]) - length))
            found.append(np.frombuffer(texts[row], np.uint8)[start : start + length + 1])
    if len(found) < sum(wanted):
        raise SystemExit(f"error: {sum(wanted)} reviews longer than {length} bytes are too many")
    windows = torch.from_numpy(np.stack(found).astype(np.int32))
    lengths = torch.full((len(windows),), length, dtype=torch.int64)
    both = Split(windows[:, :-1].contiguous(), windows[:, -1].long(), lengths)
    return both.first(wanted[0]), part(both, wanted[0])


def trained(way: str, seeds: Sequence[int], options: argparse.Namespace) -> list[Outcome]:
    """One training per seed, all as one batch."""
    of_recipe, of_model = WAYS[way]
    fields = {"initial_length": options.seq_len, **SETTINGS[options.task].model, **of_model}
    config = SelectiveSSMConfig.model_validate(fields)
    models = [config.build(torch.Generator().manual_seed(seed)) for seed in seeds]
    splits = [splits_of(seed, options) for seed in seeds]
    recipe = Recipe(epochs=options.epochs, **of_recipe)
    results = train(models, [own for own, _ in splits], recipe, list(seeds))
    found = []
    for seed, (own, fresh), result in zip(seeds, splits, results, strict=True):
        model = models[0]
        model.load_state_dict(result.weights)
        sensitivity = log_gate_sensitivity(model, result.weights, options.seq_len)
        found.append(
            Outcome(
                seed=seed,
                train_error=1 - accuracy(model, own),
                fresh_error=1 - accuracy(model, fresh),
                log10_sensitivity=float(sensitivity.detach()) / math.log(10),
                diverged=result.divergence is not None,
            )
        )
    return found


class Parts:
    """The outcomes of groups of seeds, in a file if there is to be one."""

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self._path, self._identity = path, identity
        self._done: dict[str, list[dict[str, Any]]] = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text())
            if kept["identity"] != identity:
                raise SystemExit(f"error: {path} holds parts of another experiment: {kept}")
            self._done = kept["done"]

    def of(self, way: str, seeds: Sequence[int], options: argparse.Namespace) -> list[Outcome]:
        """What was kept, or else trained now and kept."""
        name = f"{way}, seeds {seeds[0]} to {seeds[-1]}"
        if name not in self._done:
            self._done[name] = [vars(own) for own in trained(way, seeds, options)]
            if self._path is not None:
                write_json(self._path, {"identity": self._identity, "done": self._done})
        return [Outcome(**own) for own in self._done[name]]


def groups(options: argparse.Namespace) -> Iterator[range]:
    """Seeds from 1 on, as they are trained together."""
    for start in range(1, options.seeds + 1, options.group):
        yield range(start, min(start + options.group, options.seeds + 1))


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
    options.add_argument("--task", choices=SETTINGS, default="majority")
    options.add_argument("--seeds", type=int, help="number of seeds")
    options.add_argument("--seq-len", type=int, help="length of the strings")
    options.add_argument("--examples", type=int, help="training examples per seed")
    options.add_argument("--fresh", type=int, help="fresh examples per seed")
    options.add_argument("--epochs", type=int, help="epochs of each training")
    options.add_argument("--group", type=int, help="seeds that are trained as one batch")
    options.add_argument("--data", type=Path, help="reviews, of the tasks imdb and bytes")
    options.add_argument("--tokenizer", type=Path, help="WordPiece vocabulary, of the task imdb")
    options.add_argument("--parts", type=Path, help="file of what is done so far")
    result_file.add_options(options)
    return options


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the task's settings where they are not given, and its texts."""
    options = parser().parse_args(arguments)
    for name, value in vars(SETTINGS[options.task]).items():
        if getattr(options, name, value) is None:
            setattr(options, name, value)
    options.texts = []
    if options.task == "bytes":
        reviews = find_reviews(options.data, "train").read().texts
        options.texts = [text.replace("<br />", "\n").encode() for text in reviews]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    record = result_file.started(options)
    torch.set_num_threads(1)
    names = ("seq_len", "examples", "fresh", "epochs", "group")
    shape = {name: getattr(options, name) for name in names}
    settings = {"task": options.task, **shape, "model": SETTINGS[options.task].model}
    parts = Parts(options.parts, {"commit": record["commit"], **settings})
    outcomes: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    for seeds in groups(options):
        for way, made in outcomes.items():
            made += parts.of(way, seeds, options)
    found = {way: summary(own, outcomes["plain"]) for way, own in outcomes.items()}
    runs = {way: [vars(own) for own in made] for way, made in outcomes.items()}
    written = {"settings": {"seeds": options.seeds, **settings}, "summary": found, "runs": runs}
    result_file.write(options, record, written)
    if options.out is not None:
        table(options.out.with_suffix(".csv"), found)


if __name__ == "__main__":
    main()
