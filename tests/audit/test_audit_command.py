"""`keelback audit` on the command line: JSON, the report folder, and input that is wrong."""

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from keelback.cli import main
from keelback.models import SelectiveSSMConfig, save_model


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "byte-mamba"
    config = MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["audit", *map(str, arguments)])
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return call


SHORT = ("--length", 200, "--train-length", 50)


def test_json(run: Run, byte_model: Path) -> None:
    code, out, _ = run(byte_model, "--tokenizer", "bytes", *SHORT, "--sequences", 2, "--json")
    assert code == 0
    found = json.loads(out)
    assert {"verdict", "layers", "loss_by_position"} <= found.keys()
    assert (found["model"], found["length"], found["train_length"]) == ("byte-mamba", 200, 50)
    assert (found["train_length_source"], found["sequences"]) == ("given", 2)
    for layer in found["layers"]:
        assert {"name", "kind", "spectral_abscissa"} <= layer.keys()
        assert {"min", "median", "max"} <= layer["delta"].keys()
        assert {"median", "p99"} <= layer["horizon"].keys()
    assert {row["token"] for row in found["gates"]["widest"]} < {chr(i) for i in range(127)}


def test_features(run: Run, byte_model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.eye(32)[:3])
    arguments = (byte_model, "--tokenizer", "bytes", *SHORT, "--json", "--features")
    code, out, _ = run(*arguments, tmp_path / "f.npy")
    assert code == 0
    assert all(len(layer["gate"]["alignment"]) == 3 for layer in json.loads(out)["layers"])
    np.save(tmp_path / "narrow.npy", np.eye(3))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "nan.npy", np.full((2, 32), np.nan))
    np.savez(tmp_path / "several.npz", np.eye(32))
    (tmp_path / "empty.npy").touch()
    for name, words in (
        ("narrow.npy", "have 3 entries; this model's layers read 32"),
        ("cube.npy", "must be a matrix"),
        ("nan.npy", "finite numbers"),
        ("none.npy", "cannot be read"),
        ("several.npz", "several arrays"),
        ("empty.npy", "not a NumPy array"),
    ):
        code, _, err = run(*arguments, tmp_path / name)
        assert code == 2
        assert words in err


def test_words_and_a_report(run: Run, byte_model: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "report"
    text = tmp_path / "text.txt"
    text.write_text("</script><script>alert(1)</script> & so on. " * 30)
    arguments = (byte_model, "--tokenizer", "bytes", "--text", text, *SHORT)
    code, out, err = run(*arguments, "--out", out_folder)
    assert code == 0
    words = " ".join(out.split())
    assert "Stable: every state decays." in words
    for column in ("abscissa", "delta", "horizon", "99 %", "growth"):
        assert f" {column}: " in words, "a column of the table has no legend"
    assert "e+0" not in out
    assert "report.html" in err
    page = (out_folder / "report.html").read_text()
    assert "State growth: state norm beyond the training length" in page
    assert html.escape("Audit of byte-mamba") in page
    assert "<script>alert(1)" not in page
    frame = pl.read_parquet(out_folder / "layers.parquet")
    stored = json.loads((out_folder / "audit.json").read_text())
    assert frame["name"].to_list() == [layer["name"] for layer in stored["layers"]]
    assert (out_folder / "figures" / "loss_by_position.png").is_file()


def test_a_hostile_name_is_escaped(run: Run, byte_model: Path, tmp_path: Path) -> None:
    hostile, folder, tokens = tmp_path / "<b>bold", tmp_path / "out", tmp_path / "tokens.txt"
    shutil.copytree(byte_model, hostile)
    tokens.write_text(" ".join(str(i % 200) for i in range(210)))
    code, _, _ = run(hostile, "--tokens", tokens, *SHORT, "--out", folder)
    assert code == 0
    page = (folder / "report.html").read_text()
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_a_classifier_on_tokens(run: Run, tmp_path: Path) -> None:
    save_model(SelectiveSSMConfig(vocab_size=2).build(), tmp_path / "model.safetensors")
    (tmp_path / "ids.json").write_text(json.dumps([0, 1, 1] * 50))
    code, out, _ = run(tmp_path / "model.safetensors", "--tokens", tmp_path / "ids.json", "--json")
    assert code == 0
    assert json.loads(out)["loss_by_position"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "has no tokenizer; give --tokenizer PATH, --tokenizer bytes, or --tokens FILE"),
        (["--tokenizer", "bytes", "--length", "100000"], "a length of 100000 was asked for"),
        (["--tokenizer", "nowhere/at/all"], "no tokenizer can be read"),
        (["--text", "a", "--tokens", "b"], "give one of them"),
        (["--tokenizer", "bytes", "--text", "missing.txt"], "cannot be read"),
        (["--tokens", "missing.txt"], "cannot be read"),
        (["--device", "abacus"], "device is 'abacus'; it should be one of cpu, cuda"),
        (["--tokenizer", "bytes", "--train-length", "0"], "--train-length is 0; it should be"),
        (["--tokenizer", "bytes", "--length", "1"], "--length is 1; it should be"),
    ],
)
def test_wrong_input_is_one_line(
    run: Run,
    byte_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(byte_model, *arguments, "--out", "report")
    assert code == 2
    assert out == ""
    assert words in err
    assert err.strip().count("\n") == 0
    assert not Path("report").exists()


def test_out_must_be_a_folder(run: Run, byte_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    code, _, err = run(byte_model, "--tokenizer", "bytes", "--out", tmp_path / "file")
    assert code == 2
    assert "which is a file" in err
    assert (tmp_path / "file").read_text() == "kept"
