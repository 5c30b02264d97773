"""Compiled kernels on disk: damaged files, edited sources, several processes, nowhere to write."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keelback.compiled import nvrtc
from keelback.compiled.kept_files import keep_whole, read_whole

KERNELS = """
from keelback.compiled.jit import entry_kernel
from parts import scaled
@entry_kernel
def kernel(x):
    return scaled(x) + 1
"""
PARTS = """
from keelback.compiled.jit import kernel
FACTOR = {factor}
@kernel
def scaled(x):
    return FACTOR * x
"""
PROGRAM = """
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    from kernels import kernel
    print(kernel(10), kernel(0.5), len(compiled.buffer))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "package"
    package.mkdir()
    (package / "kernels.py").write_text(KERNELS)
    (package / "parts.py").write_text(PARTS.format(factor=2))
    return package


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    kept = {name: x for name, x in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[float, float, bool]:
    """The two results, and whether anything was compiled for them."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    one, two, compiled = out.split()
    return float(one), float(two), int(compiled) > 0


def run(folder: Path, **environment: str) -> tuple[float, float, bool]:
    return finish(start(folder, **environment))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


def test_a_second_process_compiles_nothing(folder: Path) -> None:
    assert run(folder) == (21, 2, True)
    assert run(folder) == (21, 2, False)
    assert len(files(folder)) == 2


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "cut in its hash": lambda content: content[:7],
    "garbage": lambda content: b"garbage" * 999,
    "zeros at the end": lambda content: content[:-512] + bytes(512),
    "one bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_compiled_again(folder: Path, damage: str) -> None:
    run(folder)
    for path in files(folder):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert run(folder) == (21, 2, True)
    assert run(folder) == (21, 2, False)


def test_a_file_that_cannot_be_read_or_replaced_is_done_without(folder: Path) -> None:
    run(folder)
    for path in files(folder):
        path.unlink()
        path.mkdir()
        (path / "in the way").touch()
    assert run(folder) == (21, 2, True)


def test_an_edit_of_a_callee_in_another_file_is_noticed(folder: Path) -> None:
    run(folder)
    (folder / "parts.py").write_text(PARTS.format(factor=3))
    assert run(folder) == (31, 2.5, True)
    assert len(files(folder)) == 2  # What was compiled before is gone.


def test_processes_at_once_do_not_mix_their_files_up(folder: Path) -> None:
    for process in [start(folder) for _ in range(4)]:
        assert finish(process)[:2] == (21, 2)
    assert run(folder) == (21, 2, False)
    assert not list(folder.rglob("*.tmp"))


def test_numbas_own_files_of_before_are_no_matter(folder: Path) -> None:
    run(folder)
    (name, _) = files(folder)
    for suffix in (".nbi", ".1.nbc"):
        name.with_name(f"kernels.kernel-4.py311{suffix}").write_bytes(b"")
    assert run(folder) == (21, 2, False)


@pytest.mark.parametrize("home", ["a file", "nowhere"])
def test_without_a_place_for_the_cache_kernels_are_compiled_in_each_process(
    folder: Path, home: str
) -> None:
    (folder / "__pycache__").write_text("in the way of the cache beside the sources")
    place = folder / "home"
    if home == "a file":
        place.write_text("")
    environment = {"HOME": str(place / "below"), "XDG_CACHE_HOME": str(place / "below" / "cache")}
    if home == "nowhere":
        environment = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}
    assert run(folder, **environment) == (21, 2, True)
    assert run(folder, **environment) == (21, 2, True)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    keep_whole(tmp_path / "kept", b"code")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the GPU kernels that were compiled, by a compiler that stands in for NVRTC."""
    names: list[str] = []

    class Library:
        @staticmethod
        def nvrtcVersion(major: object, minor: object) -> int:
            return 0

    def compile_(library: object, kernel: str, *rest: object) -> bytes:
        names.append(kernel)
        return b"machine code"

    monkeypatch.setattr(nvrtc, "_nvrtc", Library)
    monkeypatch.setattr(nvrtc, "_compile", compile_)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return names


def gpu_code() -> bytes:
    return nvrtc.compiled("keelback.conv.cuda", "convolve", "// configuration", "sm_90")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_gpu_code_is_compiled_again(
    compiling: list[str], tmp_path: Path, damage: str
) -> None:
    assert gpu_code() == gpu_code() == b"machine code"
    assert compiling == ["convolve"]
    [path] = tmp_path.rglob("*.cubin")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert gpu_code() == gpu_code() == b"machine code"
    assert compiling == ["convolve"] * 2


def test_gpu_code_without_a_home(compiling: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert gpu_code() == b"machine code"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    keep_whole(path, b"code")
    path.chmod(stat.S_IWUSR)
    assert read_whole(path) is None
