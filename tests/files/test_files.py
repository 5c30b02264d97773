"""A file is whole or absent, whoever writes it and whatever goes wrong."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from keelback.errors import InputError
from keelback.files import (
    filling,
    parsed_json,
    remove_with_parts,
    replacing,
    require_new_file,
    require_writable,
    write_atomically,
    write_json,
)


def test_text_and_bytes(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "Δ\n")
    assert (tmp_path / "a.txt").read_bytes() == "Δ\n".encode()
    write_atomically(tmp_path / "a.txt", b"\x00new")
    assert (tmp_path / "a.txt").read_bytes() == b"\x00new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "folder")
    with pytest.raises(InputError, match=r"file is a file, in which .*x/y cannot be made"):
        require_writable(tmp_path / "file" / "x" / "y")
    monkeypatch.setattr(os, "access", lambda *_: False)  # As on a read-only file system.
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}; give"):
        require_writable(tmp_path / "new" / "folder")
    with pytest.raises(InputError, match="cannot write to"):
        require_new_file(tmp_path / "c.json", "--certificate", "a certificate")


@pytest.mark.parametrize(
    ("text", "once", "message"),
    [
        ("[" * 100_000, False, "nested too deeply"),
        ('{"a": [{"b": 1, "b": 2}]}', True, "b stands in it twice"),
        ("{", True, "Expecting"),
    ],
)
def test_json_that_cannot_be_read(text: str, once: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed_json(text, once=once)


def test_the_last_value_of_a_name_counts_where_that_is_allowed() -> None:
    assert parsed_json('{"a": 1, "a": 2}') == {"a": 2}
    assert parsed_json('{"a": {"a": 1}}', once=True) == {"a": {"a": 1}}


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")

    def fail_halfway() -> None:
        with replacing(path) as partial:
            partial.write_text("half of the n")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_what_a_killed_writer_left_goes_with_its_file(tmp_path: Path) -> None:
    path, other = tmp_path / "a[1].bin", tmp_path / "a1.bin"
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom keelback.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    for target in (path, other):
        subprocess.run([sys.executable, "-c", program, target], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    path.write_text("whole")
    remove_with_parts(path)
    assert [left.name.startswith(".a1.bin.") for left in tmp_path.iterdir()] == [True]
    remove_with_parts(path)


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "folder", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "below", "")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    """safetensors alone makes its files readable by their owner only."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "weights") as partial:
            save_file({"x": torch.ones(2)}, partial)
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "new"

    def fill(fail: bool) -> None:
        with filling(target) as partial:
            (partial / "a").write_text("1")
            assert not target.exists()
            assert partial.name.startswith(".new.")
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(True)
    assert list(tmp_path.iterdir()) == []
    fill(False)
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a").write_text("old")
    with pytest.raises(OSError, match="not empty"), filling(tmp_path / "new") as partial:
        (partial / "a").write_text("new")
    assert (tmp_path / "new/a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_folder(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with filling(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def test_threads_that_write_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    texts = [str(number) * 100_000 for number in range(8)]
    gate = threading.Barrier(len(texts))
    failures: list[BaseException] = []

    def write(text: str) -> None:
        gate.wait()
        try:
            for _ in range(20):
                write_atomically(tmp_path / "shared", text)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (tmp_path / "shared").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_json_has_no_infinity(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1.5, None, "Δ"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None, "Δ"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None, "Δ"]}
