"""The commands as a user types them: results, exit codes, one line for a wrong input."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from keelback.models import SelectiveSSMConfig, save_weights

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.shared
@pytest.mark.parametrize(("split", "expected"), [("train", 0.967), ("test", 0.883)])
def test_evaluate_scores_the_reference_checkpoint(
    cli: Cli, shared: Path, split: str, expected: float
) -> None:
    code, out, _ = cli(
        "evaluate", shared / "reference/checkpoints/majority_T100_seed1.pth",
        "--task", "majority", "--seq-len", "100", "--data-seed", "1",
        "--split", split, "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["accuracy"] == expected


def test_train_then_evaluate_agree(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli(
        "train", "--task", "majority", "--seq-len", "10", "--epochs", "2", "--seed", "3",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    trained = json.loads(out)
    assert code == 0
    for split in ("train", "test"):
        _, out, _ = cli(
            "evaluate", trained["directory"], "--task", "majority", "--seq-len", "10",
            "--data-seed", "3", "--split", split, "--json",
        )  # fmt: skip
        assert json.loads(out)["accuracy"] == trained[f"{split}_accuracy"]


def test_a_diverged_training_exits_1_and_says_where(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "--task", "majority", "--seq-len", "40", "--abscissa", "50", "--epochs", "1",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 1
    assert json.loads(out)["diverged"] is True
    assert "epoch 1, step 1: y" in err


def test_reproduce_writes_figures_tables_and_one_page_then_report_does_too(
    cli: Cli, tmp_path: Path
) -> None:
    out_dir = tmp_path / "sweep"
    arguments = (
        "reproduce", "length-independence", "--task", "majority", "--seq-len", "5,10",
        "--seeds", "2", "--set", "epochs=1", "--out", out_dir, "--json",
    )  # fmt: skip
    code, out, _ = cli(*arguments)
    assert code == 0
    first = json.loads(out)
    assert [row["seq_len"] for row in first["rows"]] == [5, 10]
    assert [row["attempted"] for row in first["rows"]] == [2, 2]
    report = out_dir / "report"
    assert (report / "report.html").stat().st_size > 10_000
    assert {path.suffix for path in report.rglob("*") if path.is_file()} >= {
        ".html", ".png", ".pdf", ".parquet",
    }  # fmt: skip
    stamps = {path: path.stat().st_mtime_ns for path in out_dir.glob("runs/*/run.json")}
    _, again, _ = cli(*arguments)
    assert json.loads(again) == first
    assert stamps == {path: path.stat().st_mtime_ns for path in out_dir.glob("runs/*/run.json")}
    code, out, _ = cli("report", out_dir, "--json")
    assert code == 0
    assert json.loads(out) == {"length-independence-majority": first}


def test_runs_made_where_nothing_draws_are_drawn_by_report(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "plotly", None)
        without.setitem(sys.modules, "matplotlib", None)
        code, out, _ = cli(
            "reproduce", "length-independence", "--task", "majority", "--seq-len", "5",
            "--seeds", "1", "--set", "epochs=1", "--out", sweep, "--no-report", "--json",
        )  # fmt: skip
    assert code == 0
    assert not (sweep / "report").exists()
    code, drawn, _ = cli("report", sweep, "--json")
    assert code == 0
    assert json.loads(drawn) == {"length-independence-majority": json.loads(out)}
    assert (sweep / "report/report.html").exists()


def test_list_names_everything(cli: Cli) -> None:
    code, out, _ = cli("list", "--json")
    assert code == 0
    assert "length-independence" in json.loads(out)["experiments"]
    assert "majority" in json.loads(out)["tasks"]


def test_no_arguments_print_the_help(cli: Cli) -> None:
    code, out, _ = cli()
    assert code == 0
    assert "reproduce" in out


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("trian", "there is no command 'trian'; did you mean train?"),
        ("repro", "there is no command 'repro'; did you mean reproduce?"),
        ("train --task majorty --out new", "no task 'majorty'; choose one of imdb, listops, maj"),
        ("train --tsk majority", "there is no option --tsk; did you mean --task?"),
        ("train --task", "--task needs a value"),
        ("train --task majority --out new --cpu=1", "--cpu takes no value"),
        ("train --task majority", "--out is missing: folder for the run"),
        ("train extra --task majority --out new", "too many arguments: extra"),
        ("train --task majorty --out new", "majorty"),
        ("train --task majority --seq-len 0 --out new", "--seq-len is 0; it should be a whole"),
        ("train --task majority --seq-len ten --out new", "--seq-len is 'ten'; it should be"),
        ("train --task majority --seed -1 --out new", "--seed is -1; it should be a whole"),
        ("train --task majority --seed 1.5 --out new", "--seed is 1.5; it should be a whole"),
        ("train --task majority --abscissa nan --out new", "--abscissa is nan; it"),
        ("train --task majority --abscissa 0 --parametrisation stable --out new", "not below"),
        ("train --task majority --parametrisation odd --out new", "parametrisation"),
        ("train --task majority --out file", "file is a file"),
        ("train --task majority --out file/below", "cannot write"),
        ("train --task majority --out full", "holds no keelback sweep"),
        ("train --task majority --out old", "version 999"),
        ("reproduce length-independance", "did you mean length-independence?"),
        ("reproduce length-independence --task nosuch --out new", "nosuch"),
        ("reproduce length-independence --seq-len 10,x --out new", "seq_len.1 is 'x'"),
        ("reproduce length-independence --seq-len -5 --out new", "seq_len"),
        ("reproduce length-independence --seq-len 2.5 --out new", "seq_len"),
        ("reproduce length-independence --seeds 0 --out new", "--seeds is 0; it should be"),
        ("reproduce length-independence --seeds five --out new", "--seeds"),
        ("reproduce length-independence --workers 0 --out new", "--workers is 0; it should be"),
        ("reproduce length-independence --executor slurm --out new", "one of local, ray"),
        ("reproduce length-independence --address auto --out new", "add --executor ray"),
        ("reproduce length-independence --executor ray --workers 2 --out new", "--workers is for"),
        ("reproduce length-independence --executor ray --address x --out new", "HOST:PORT"),
        (
            "reproduce length-independence --executor ray --gpus-per-task -1 --out new",
            "--gpus-per-job is -1; it should be a number, 0 or more",
        ),
        ("reproduce length-independence --set epoch=1 --out new", "did you mean epochs?"),
        ("reproduce length-independence --set epochs --out new", "NAME=VALUE"),
        ("reproduce length-independence --out old", "version 999"),
        ("reproduce length-independence --out file", "file is a file"),
        ("report full", "holds no keelback sweep"),
        ("report absent", "holds no keelback sweep"),
        ("report old", "version 999"),
        ("evaluate absent.pth --task majority --seq-len 10", "no checkpoint at absent.pth"),
        ("evaluate evil.pth --task majority --seq-len 10", "run code"),
        ("evaluate file --task majority --seq-len 10", "file"),
        ("evaluate file --task majority", "seq_len is missing; give --seq-len, the sequence len"),
        ("certify file --task majority", "seq_len is missing; give --seq-len, the sequence len"),
        ("evaluate cut.safetensors --task majority --seq-len 10", "not a whole safetensors"),
        ("evaluate file --task majority --seq-len 10 --split valid", "train or test"),
    ],
)
def test_bad_input_exits_2_with_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a checkpoint")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Evil()}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "old").mkdir()
    manifest = {"format": "keelback-store", "version": 999}
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert sorted(tmp_path.rglob("*")) == before


BAD_WEIGHTS = {"nan": torch.nan, "inf": torch.inf, "complex": 1j, "double": 1}


@pytest.mark.parametrize("fault", BAD_WEIGHTS)
@pytest.mark.parametrize("command", ["evaluate", "certify", "audit"])
def test_weights_that_are_no_finite_real_numbers_are_never_used(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(0))
    weights = dict(model.state_dict())
    weights["head.weight"] = weights["head.weight"] * BAD_WEIGHTS[fault]
    if fault == "double":
        weights["head.weight"] = weights["head.weight"].double()
    save_weights(weights, model.config, Path("m.safetensors"))
    given = [] if command == "audit" else ["--task", "majority", "--seq-len", "5"]
    code, out, err = cli(command, "m.safetensors", *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "m.safetensors: tensor head.weight holds " in err


def test_a_report_that_is_not_written_has_no_place(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(
        "reproduce", "length-independence", "--no-report", "--report-to", tmp_path / "r",
        "--out", tmp_path / "new",
    )  # fmt: skip
    assert code == 2
    assert "--no-report writes none" in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_exits_130_and_says_that_what_was_finished_is_kept(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("keelback.cli.reproduce.print_json", interrupt)
    code, out, err = cli("list", "--json")
    assert (code, out) == (130, "")
    assert err == "interrupted; what was finished is kept\n"
