"""Undo gives back the folder that was repaired, or says why it cannot."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import contents, forced_repair, in_shards, with_company
from safetensors.torch import load_file, save_file

from keelback.audit import undo_repair
from keelback.audit.checkpoints import REPLACED_FILE, REPORT_FILE
from keelback.cli import main
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def repaired(
    tiny_model: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A model in shards, of which a repair edited only some, and the repaired copy."""
    folder = tmp_path_factory.mktemp("undo")
    tiny_model("mamba2").save_pretrained(folder / "model")
    in_shards(with_company(folder / "model"), 3)
    forced_repair(folder / "model", folder / "repaired", evaluations=0)
    return folder / "model", folder / "repaired"


@pytest.fixture
def copy(repaired: tuple[Path, Path], tmp_path: Path) -> Path:
    """A repaired folder of one's own."""
    return Path(shutil.copytree(repaired[1], tmp_path / "repaired", symlinks=True))


def untouched_shard(folder: Path) -> Path:
    edited = json.loads((folder / REPORT_FILE).read_text())["files"]
    return next(f for f in sorted(folder.glob("model-*")) if f.name not in edited)


def train_further(folder: Path) -> None:
    """Weights that the repair did not edit move; those that it did stay."""
    file = untouched_shard(folder)
    own = load_file(file)
    own[sorted(own)[0]] += 1
    save_file(own, file, {"format": "pt"})


def change_config(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "gelu"}))


def take_first(folder: Path) -> None:
    """What transformers would read in place of the shards."""
    shutil.copy(untouched_shard(folder), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (train_further, r"model-0000\d-of-00003\.safetensors"),
        (lambda folder: untouched_shard(folder).unlink(), r"model-0000\d-of-00003\.safetensors"),
        (change_config, r"config\.json"),
        (take_first, r"model\.safetensors"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), r"model\..*index\.json"),
    ],
)
def test_a_model_that_was_changed_after_its_repair(
    copy: Path, tmp_path: Path, change: Callable[[Path], Any], named: str
) -> None:
    change(copy)
    with pytest.raises(InputError, match=f"was changed after its repair: {named}; with the old"):
        undo_repair(copy, tmp_path / "undone")
    assert not (tmp_path / "undone").exists()


def test_files_beside_a_model_that_were_changed(
    repaired: tuple[Path, Path], copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "README.md").write_text("Repaired.")
    (copy / "assets" / "figures" / "loss.png").unlink()
    (copy / "optimizer.pt").write_bytes(b"new")
    undone = undo_repair(copy, tmp_path / "undone")
    assert undone.others == ["README.md", "assets/figures/loss.png", "optimizer.pt"]
    before, after = contents(repaired[0]), contents(tmp_path / "undone")
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} == {
        *undone.others
    }
    with pytest.raises(SystemExit) as ended:
        main(["repair", str(copy), "--undo", "--out", str(tmp_path / "again")])
    assert ended.value.code == 0
    assert "left so: README.md, assets/figures/loss.png, optimizer.pt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensors": ["a"]}, "is damaged"),
        ({"files": []}, "is damaged"),
        ({"files": {"x": {"after": "0"}}}, "is damaged"),
        ({"files": {}}, "does not match"),
        ({"tensors": {}}, "does not match"),
        ({"copied": 3}, "is damaged"),
    ],
)
def test_a_record_that_was_tampered_with(
    copy: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = copy / REPORT_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=words):
        undo_repair(copy, tmp_path / "undone")
    assert not (tmp_path / "undone").exists()


def test_a_record_does_not_lead_out_of_its_folder(copy: Path, tmp_path: Path) -> None:
    file, elsewhere = copy / REPORT_FILE, "../repaired/" + untouched_shard(copy).name
    report = json.loads(file.read_text())
    report["tensors"] = dict.fromkeys(report["tensors"], elsewhere)
    report["files"] = {elsewhere: {"before": "0", "after": "0"}}
    file.write_text(json.dumps(report))
    with pytest.raises(InputError, match="is no file beside it"):
        undo_repair(copy, tmp_path / "undone")


@pytest.mark.parametrize("name", [REPORT_FILE, REPLACED_FILE])
def test_a_record_that_is_cut_off(copy: Path, tmp_path: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        undo_repair(copy, tmp_path / "undone")


def test_links_that_lead_nowhere_and_in_circles(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    original = tmp_path / "models" / "model"
    tiny_model("mamba").save_pretrained(original)
    for name in ("a", "b"):
        (original / name).mkdir()
    for name, target in {
        "gone": "nowhere",
        "itself": ".",
        "above": "..",
        "a/b": "../b",
        "b/a": "../a",
    }.items():
        (original / name).symlink_to(target)
    forced_repair(original, tmp_path / "repaired", evaluations=0)
    for name in ("gone", "itself", "above"):
        assert os.readlink(tmp_path / "repaired" / name) == os.readlink(original / name)
    undo_repair(tmp_path / "repaired", tmp_path / "undone")
    assert contents(tmp_path / "undone") == contents(original)


def test_what_is_no_file_is_named(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    tiny_model("mamba").save_pretrained(tmp_path / "model")
    os.mkfifo(tmp_path / "model" / "pipe")
    with pytest.raises(InputError, match="pipe is neither a file nor a folder"):
        forced_repair(tmp_path / "model", tmp_path / "repaired", evaluations=0)
    assert not (tmp_path / "repaired").exists()


@contextmanager
def as_somebody(folder: Path) -> Iterator[None]:
    """Root may write to everything: within the block it is somebody who owns just `folder`."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="of the permissions of Unix")
def test_a_folder_that_may_only_be_read(repaired: tuple[Path, Path]) -> None:
    """Nobody may write to what is copied; the copy keeps the permissions of files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = Path(shutil.copytree(repaired[1], folder / "repaired"))
        for path in (*copy.rglob("*"), copy):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with as_somebody(folder):
            undo_repair(copy, folder / "undone")
        assert contents(folder / "undone") == contents(repaired[0])
        assert (folder / "undone" / "config.json").stat().st_mode & 0o777 == 0o444
