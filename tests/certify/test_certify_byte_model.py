"""tools/certify_byte_model.py: one command from an untrained model to certificates."""

import csv
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from keelback.certify import read_coded_model
from keelback_check import check

pytest.importorskip("transformers")
pytest.importorskip("flint")

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FEW = (
    "--steps 3 --batch 2 --width 32 --layers 2 --context 8 --window 24 --rank 2 --draw 30 "
    "--device cpu"
)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("certify_byte_model")


def reviews(path: Path, word: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(30):
            writer.writerow([f"{word} number {number} of the keel, {number * 7919} ", number % 2])
    return path


@pytest.mark.parametrize("family", ["mamba", "mamba2", "transformer"])
def test_a_model_is_trained_coded_and_certified(
    family: str, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = reviews(tmp_path / "train.csv", "hull"), reviews(tmp_path / "test.csv", "mast")
    line = [family, *FEW.split(), "--train", str(train), "--test", str(test)]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["tools/certify_byte_model.py", *line, "--out", str(out)])
    tool.main()
    written = json.loads((out / "results.json").read_text())
    assert written["steps"] == 3
    assert written["bytes"] == (out / "model.keelback").stat().st_size
    assert written["coded_weights"] < written["weights"]
    assert read_coded_model(out / "model.keelback").header.rank == 2
    assert not (out / "trained.certificate.json").exists()  # Its code is far longer than the text.
    drawn = json.loads((out / "drawn.certificate.json").read_text())
    check(drawn)
    assert drawn["checkpoint"]["bytes"] == written["bytes"]
    assert {own["evidence"]["examples"] for own in drawn["statements"]} == {30}


def test_a_model_over_tokens_is_certified_in_bits_per_byte(
    tool: ModuleType, tmp_path: Path
) -> None:
    train, test = reviews(tmp_path / "train.csv", "hull"), reviews(tmp_path / "test.csv", "mast")
    out = tmp_path / "out"
    line = ["mamba", *FEW.split(), "--tokens", "300", "--train", str(train), "--test", str(test)]
    tool.main([*line, "--out", str(out)])
    written = json.loads((out / "results.json").read_text())
    assert written["tokenizer"]["vocab_size"] == 300
    assert written["tokens"] < written["text"]["bytes"]
    drawn = json.loads((out / "drawn.certificate.json").read_text())
    check(drawn)
    assert drawn["data"]["tokenizer"] == written["tokenizer"]
    kinds = {own["kind"] for own in drawn["statements"]}
    assert kinds <= {"token bits of a new document", "token errors in a new document", "n-gram"}


def test_parts_that_are_there_are_left_as_they_are(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, out = reviews(tmp_path / "train.csv", "hull"), tmp_path / "out"
    line = ["mamba2", *FEW.split(), "--draw", "0", "--train", str(train), "--test", str(train)]
    out.mkdir()
    for name in ("model.keelback", "trained.certificate.json"):
        (out / name).write_text(name)
    tool.main([*line, "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [
        "model.keelback",
        "trained.certificate.json",
    ]
    assert (out / "model.keelback").read_text() == "model.keelback"


def test_a_transformer_is_as_large_as_a_mamba(tool: ModuleType) -> None:
    sizes = [
        sum(x.numel() for x in tool.untrained(family, 384, 10, 0).parameters())
        for family in ("mamba", "mamba2", "transformer")
    ]
    assert all(9_500_000 < size < 10_500_000 for size in sizes)
