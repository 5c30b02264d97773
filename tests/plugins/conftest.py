"""Plugins of one test are unknown to the next; commands run in this process or as a user's."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest

import keelback.audit.adapters
import keelback.experiments  # noqa: F401 - All registries are there before a test copies them.
from keelback import plugins
from keelback.cli import main
from keelback.registry import Registry

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test's parts are forgotten after it, its folder is the working directory, and keelback
    runs as a user has it: without the checks of types that tests add."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(Registry, "imported", set())
    for registry in Registry.every:
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
        monkeypatch.setattr(registry, "_installed", None)
        monkeypatch.setattr(registry, "_broken", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("keelback_plugin_"):
            del sys.modules[name]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command here; gives its exit code and what it printed on stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run a line of a shell in which `keelback` is this one; gives what it printed on stdout."""
    folder = tmp_path / ".bin"
    folder.mkdir()
    script = folder / "keelback"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keelback "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(line: str) -> str:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, dict[str, str]], Path]]:
    """Install a package of one module in a site folder of its own, as pip leaves it."""
    installed: set[str] = set()

    def make(package: str, source: str, entry_points: dict[str, str], version: str = "1.2") -> Path:
        site = tmp_path / f"site-{package}"
        site.mkdir()
        (site / f"{package}.py").write_text(source)
        record = site / f"{package}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        (record / "RECORD").write_text(f"{package}.py,,\n")
        (record / "top_level.txt").write_text(f"{package}\n")
        lines = [f"[{group}]\n{points}\n" for group, points in entry_points.items()]
        (record / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        installed.add(package)
        for registry in Registry.every:
            registry._installed = None
        return site

    yield make
    for package in installed:
        sys.modules.pop(package, None)
