"""tools/bound_practice.py: paired trainings on reviews, in groups, gone on with where stopped."""

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FEW = ["--seeds=3", "--group=2", "--seq-len=6", "--examples=8", "--fresh=9", "--epochs=1"]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("bound_practice")
    monkeypatch.setattr(module, "WAYS", {way: module.WAYS[way] for way in ("plain", "penalty 0.1")})
    monkeypatch.setattr(module, "RESAMPLES", 50)
    return module


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(30):
            writer.writerow([f"{number} is a review with number in it", number % 2])
    return path


def test_windows_of_a_seed_come_from_different_reviews(tool: ModuleType, reviews: Path) -> None:
    options = tool.parsed(["--task", "bytes", "--data", str(reviews), *FEW])
    own, fresh = tool.splits_of(1, options)
    assert (own.tokens.shape, fresh.tokens.shape) == ((8, 6), (9, 6))
    for split in (own, fresh):
        for row, label in zip(split.tokens.tolist(), split.labels.tolist(), strict=True):
            assert any(bytes([*row, label]) in whole for whole in options.texts)
    again, _ = tool.splits_of(1, options)
    other, _ = tool.splits_of(2, options)
    assert again.tokens.equal(own.tokens)
    assert not other.tokens.equal(own.tokens)
    options.examples = 30
    with pytest.raises(SystemExit, match="are too many"):
        tool.splits_of(1, options)


def test_examples_and_fresh_reviews_are_apart(tool: ModuleType, reviews: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "review", "with", "number", "in", "it"]
    vocabulary = reviews.with_name("vocab.txt")
    vocabulary.write_text("\n".join([*words, *map(str, range(30))]) + "\n")
    options = tool.parsed(
        ["--task", "imdb", "--data", str(reviews), "--tokenizer", str(vocabulary), *FEW]
    )
    own, fresh = tool.splits_of(1, options)
    rows = {tuple(row) for row in own.tokens.tolist()}
    assert (len(own), len(fresh)) == (8, 9)
    assert not rows & {tuple(row) for row in fresh.tokens.tolist()}


def test_a_run_that_was_stopped_goes_on(
    tool: ModuleType, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, out = tmp_path / "parts.json", tmp_path / "results.json"
    line = ["--task", "bytes", "--data", str(reviews), *FEW]
    made: list[Any] = []

    def outcome(way: str, seeds: range, options: Any) -> list[Any]:
        made.append((way, list(seeds)))
        if len(made) == 3:
            raise KeyboardInterrupt
        return [tool.Outcome(seed, 0.1, 0.2 + seed / 100, 3.0, False) for seed in seeds]

    monkeypatch.setattr(tool, "trained", outcome)
    kept = [*line, "--parts", str(parts), "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        tool.main(kept)
    tool.main(kept)
    assert made == [
        ("plain", [1, 2]), ("penalty 0.1", [1, 2]), ("plain", [3]), ("plain", [3]),
        ("penalty 0.1", [3]),
    ]  # fmt: skip
    written = json.loads(out.read_text())
    assert [run["seed"] for run in written["runs"]["plain"]] == [1, 2, 3]
    assert written["summary"]["penalty 0.1"]["gap_less_plain"] == [0, 0, 0]
    assert len(out.with_suffix(".csv").read_text().splitlines()) == 3
    with pytest.raises(SystemExit, match="another experiment"):
        tool.main([*kept, "--epochs", "2"])


def test_a_byte_model_is_trained_in_each_way(tool: ModuleType, reviews: Path) -> None:
    options = tool.parsed(["--task", "bytes", "--data", str(reviews), *FEW])
    plain, penalty = (tool.trained(way, range(1, 3), options) for way in tool.WAYS)
    assert [own.seed for own in plain] == [1, 2]
    assert all(0 <= own.train_error <= 1 and not own.diverged for own in [*plain, *penalty])
    assert penalty[0].log10_sensitivity < plain[0].log10_sensitivity
