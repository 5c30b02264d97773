"""The study of byte-level language models: its parts, and a whole one on a few reviews."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from keelback.audit import audit, load_any_model
from keelback.cli import main
from keelback.errors import InputError
from keelback.experiments.length.byte_lm import build, chosen_config, read_bytes, train

SMALL = ("d_model=32", "n_layers=1", "d_state=4", "seq_len=16", "batch=4", "steps=5")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    folder = tmp_path / "reviews"
    folder.mkdir()
    texts = [f"Film {i} is long.<br />It is {'not ' * (i % 3)}good." * 20 for i in range(12)]
    for split in ("train", "test"):
        frame = pl.DataFrame({"text": texts, "label": [i % 2 for i in range(12)]})
        frame.write_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_bytes_of_a_split(reviews: Path) -> None:
    first, again, other = (bytes(read_bytes(reviews, "train", s).tolist()) for s in (0, 0, 1))
    assert first == again != other
    assert b"<br />" not in first
    assert b"long.\nIt is" in first
    assert sorted(first) == sorted(other)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_training_lowers_the_loss(reviews: Path, kind: str) -> None:
    config = chosen_config("tiny", [*SMALL, f"kind={kind}", "steps=60", "learning_rate=0.01"])
    model = build(config)
    rates = [p for n, p in model.named_parameters() if n.endswith("A_log")]
    assert float(rates[0].detach().max()) < 0
    losses = train(model, config, read_bytes(reviews, "train", 0))
    assert len(losses) == 60
    assert losses[-1] < 0.7 * losses[0]
    assert not model.training


def test_the_same_seed_gives_the_same_training(reviews: Path) -> None:
    config = chosen_config("tiny", SMALL)
    runs = [train(build(config), config, read_bytes(reviews, "train", 0)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("preset", "fields", "words"),
    [
        ("huge", [], "preset is 'huge'"),
        ("tiny", ["steps"], "is not FIELD=VALUE"),
        ("tiny", ["steps=-1"], "steps is '-1'"),
        ("tiny", ["stride=2"], "there is no field stride"),
    ],
)
def test_wrong_settings(preset: str, fields: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        chosen_config(preset, fields)


def test_a_whole_study(reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    settings: list[Any] = [f for field in SMALL for f in ("--set", field)]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("byte-lm", "--data", str(reviews), "--out", str(out), "--multiple", "4"),
                *settings,
                "--json",
            ]
        )
    assert ended.value.code == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert study["config"]["seq_len"] == 16
    assert study["before"]["length"] == 64
    stored = json.loads((out / "results.json").read_text())
    assert stored["studies"][0]["repair"] == study["repair"]
    assert (out / "figures" / "loss-tiny.png").is_file()
    loaded = load_any_model(out / "tiny" / "model")
    permissions = [file.stat().st_mode for file in (out / "tiny" / "model").iterdir()]
    assert set(permissions) == {(out / "results.json").stat().st_mode}
    assert loaded.stored_as == torch.bfloat16
    tokens = read_bytes(reviews, "test", 0)[: 4 * 64].long()
    found = audit(loaded.model, tokens, train_length=16, length=64, precision=False).to_json()
    assert found["loss_by_position"] == study["before"]["loss_by_position"]


def test_several_models_in_one_report(reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    presets = ["--preset", "mamba", "--preset", "mamba2-long-memory"]
    arguments = ["byte-lm", "--data", str(reviews), "--out", str(out), "--multiple", "4", *presets]
    for field in SMALL:
        arguments += ["--set", field]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    table = pl.read_csv(out / "tables" / "byte-lm.csv")
    assert table["model"].to_list() == ["mamba", "mamba2-long-memory"]
    assert table["kind"].to_list() == ["mamba", "mamba2"]
    assert table["initial_rate_scale"].to_list() == [1.0, 2**-6]

    shutil.rmtree(out / "mamba")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert not (out / "mamba").exists()
