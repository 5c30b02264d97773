"""Data that are wrong, missing or edited: exit code 2, one line that says where, no trace."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from keelback.cli import main
from keelback.data import hub
from keelback.models import SelectiveSSMConfig, save_model

Cli = Callable[[str], tuple[int, str, str]]

VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\nbad\n"
REVIEWS = {"text": ["good good", "bad", "good bad good", "bad bad"], "label": [1, 0, 1, 0]}
LISTOPS_HEADER, LISTOPS_ROW = "Source\tTarget\n", "( [MAX 1 2 ] )\t2\n"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run a command line in a folder of data; its exit code, stdout and stderr."""
    monkeypatch.setenv("KEELBACK_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(shlex.split(command))
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err

    return run


def refused(cli: Cli, command: str) -> str:
    """The complaint about a command that must change nothing in the working folder."""
    before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}
    code, out, err = cli(command)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")} == before
    return err


def write_reviews(name: str = "reviews", **columns: list[object]) -> Path:
    """A folder with a good training split, and a test split with these columns."""
    folder = Path(name)
    folder.mkdir()
    Path("vocab.txt").write_text(VOCABULARY)
    pl.DataFrame(REVIEWS).write_parquet(folder / "train-0.parquet")
    pl.DataFrame(columns or REVIEWS).write_parquet(folder / "test-0.parquet")
    return folder


IMDB_COMMANDS = [
    "reproduce length-independence --task imdb --seq-len 4 {} --out new",
    "reproduce data-histograms --task imdb {} --out new",
    "reproduce all {} --out new",
]


@pytest.mark.parametrize("command", IMDB_COMMANDS)
@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"text": ["good", "  "], "label": [1, 0]}, "row 2: the text is empty"),
        ({"text": ["good", None], "label": [1, 0]}, "row 2: the text is empty"),
        ({"text": ["good", "bad"], "label": [1, 2]}, "row 2: label '2' is neither 0"),
        ({"review": ["good"], "label": [1]}, "has no column text; its columns are review, label"),
        ({"text": [], "label": []}, "holds no reviews"),
    ],
)
def test_reviews_that_are_wrong(
    cli: Cli, command: str, columns: dict[str, list[object]], complaint: str
) -> None:
    write_reviews(**columns)
    err = refused(cli, command.format("--data reviews --tokenizer vocab.txt"))
    assert complaint in err
    assert "test-0.parquet" in err or "reviews" in err


@pytest.mark.parametrize("command", IMDB_COMMANDS)
def test_a_cut_off_parquet_file(cli: Cli, command: str) -> None:
    file = write_reviews() / "test-0.parquet"
    file.write_bytes(file.read_bytes()[:200])
    err = refused(cli, command.format("--data reviews --tokenizer vocab.txt"))
    assert "test-0.parquet is not a whole Parquet file" in err


@pytest.mark.parametrize("command", IMDB_COMMANDS)
@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("--data absent --tokenizer vocab.txt", "there is no file or folder"),
        ("--data empty --tokenizer vocab.txt", "holds no train split: expected train-*.parquet"),
        ("--data reviews --tokenizer absent.txt", "cannot read the vocabulary"),
        ("--data reviews --tokenizer short.txt", "lacks [CLS], [SEP]"),
    ],
)
def test_data_that_are_not_there(cli: Cli, command: str, where: str, complaint: str) -> None:
    write_reviews()
    Path("empty").mkdir()
    Path("short.txt").write_text("[PAD]\n[UNK]\n")
    assert complaint in refused(cli, command.format(where))


def test_too_few_reviews(cli: Cli) -> None:
    write_reviews()
    err = refused(
        cli,
        "reproduce stability-margin --task imdb --data reviews --tokenizer vocab.txt --out new",
    )
    assert "imdb has 4 reviews in its train split, n_train asks for 2500" in err


def test_without_a_network_the_message_says_what_to_give(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "_reach_hub", fail)
    err = refused(cli, "reproduce length-independence --task imdb --out new")
    assert "no route to host" in err
    assert "--data PATH" in err


def test_all_skips_a_task_whose_data_cannot_be_had(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keelback.experiments import everything

    def fail() -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "_reach_hub", fail)
    planned, skipped = everything({"quick": True})
    assert len(skipped) == 1
    assert skipped[0].startswith("imdb is skipped: cannot fetch")
    tasks = {getattr(settings, "task", None) for _, settings in planned}
    assert tasks >= {"majority", "listops"}
    assert "imdb" not in tasks


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("Expression\tValue\n1\t1\n", "should name the columns Source and Target"),
        ("Source\tTarget\n", "has a header and no sequences"),
        ("Source\tTarget\n[MAX 1 2 ]\t2\n[MAX 1 x ]\t1\n", "line 3: token 'x' is not in the voc"),
        ("Source\tTarget\n[MAX 1 2 ]\t12\n", "line 2: label '12' is not one of the classes 0 to 9"),
        ("Source\tTarget\n[MAX 1 2 ]\t2\n\t2\n", "line 3: the sequence is empty"),
        ("Source\tTarget\n[MAX 1 2 ]\t2\n[MAX 1", "line 3: 1 columns instead of 2"),
        (f"Source\tTarget\n[MAX {'1 ' * 30}]\t1\n", "line 2: the sequence has 32 tokens, more"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "evaluate model.safetensors --task listops --seq-len 4 --data trees_test.tsv",
        "reproduce length-independence --task listops --seq-len 4 --data . --out new",
    ],
)
def test_trees_that_are_wrong(cli: Cli, command: str, content: str, complaint: str) -> None:
    save_model(SelectiveSSMConfig(vocab_size=16, n_classes=10).build(), Path("model.safetensors"))
    Path("trees_train.tsv").write_text(LISTOPS_HEADER + 1000 * LISTOPS_ROW)
    Path("trees_test.tsv").write_text(content)
    err = refused(cli, command)
    assert complaint in err
    assert "trees_test.tsv" in err


def test_a_cache_of_other_settings_and_a_damaged_one(cli: Cli, tmp_path: Path) -> None:
    write_reviews()
    config = SelectiveSSMConfig(vocab_size=6)
    save_model(config.build(torch.Generator().manual_seed(0)), Path("model.safetensors"))
    command = (
        "evaluate model.safetensors --task imdb --seq-len 4 --data reviews --tokenizer vocab.txt"
    )
    code, _, err = cli(command)
    assert code == 0, err
    [entry] = (tmp_path / "cache").iterdir()
    meta = entry / "meta.json"
    good = meta.read_text()
    meta.write_text(json.dumps({**json.loads(good), "tokenizer": "another"}))
    assert f"made with other settings (tokenizer); delete {entry}" in refused(cli, command)
    meta.write_text(good)
    values = np.load(entry / "values.npy")
    np.save(entry / "values.npy", values[:-1])
    assert "arrays do not fit together" in refused(cli, command)
    (entry / "values.npy").write_bytes(b"\x93NUMPY")
    assert "the token cache is damaged" in refused(cli, command)


def test_a_results_folder_that_was_edited(cli: Cli) -> None:
    code, _, err = cli(
        "reproduce length-independence --task majority --seq-len 5 --seeds 1 --set epochs=1 "
        "--out sweep"
    )
    assert code == 0, err
    [run] = Path("sweep/runs").glob("*/run.json")
    [request] = Path("sweep/requests").glob("*.json")
    for file, content in (
        (run, "{"),
        (run, '{"run": {}}'),
        (request, "[]"),
        (request, json.dumps({**json.loads(request.read_text()), "settings": {"seeds": 0}})),
        (request, json.dumps({**json.loads(request.read_text()), "experiment": "nosuch"})),
    ):
        good = file.read_text()
        file.write_text(content)
        refused(cli, "report sweep")
        file.write_text(good)
