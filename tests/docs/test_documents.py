"""What the README and the docs say can be done, can be done."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keelback.cli.app import app, load_commands

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_exists(document: Path) -> None:
    load_commands()
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    named = re.findall(r"^    keelback (?!-)(\S+)", document.read_text(), re.MULTILINE)
    named += re.findall(r"`keelback (?!\.|-)([a-z][a-z-]*)", document.read_text())
    assert set(named) <= known


def test_the_page_on_commands_names_every_command_and_benchmark() -> None:
    load_commands()
    text = (ROOT / "docs/reference/commands.md").read_text()
    names = {one.name or one.callback.__name__ for one in app.registered_commands}
    [bench] = [group.typer_instance for group in app.registered_groups if group.name == "bench"]
    names |= {f"bench {one.name or one.callback.__name__}" for one in bench.registered_commands}
    missing = [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


def test_the_python_of_the_page_on_sweeps_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/guides/sweeps.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "sweeps.md", "exec"), {})
    assert "'epoch': 1" in capsys.readouterr().out
    assert list((tmp_path / "logs").rglob("events*"))


RUN_AS_THEY_STAND = ("delta", "mamba-block", "scan", "several-gpus")
SNIPPETS = [
    pytest.param(code, id=f"{name}-{number}")
    for name in RUN_AS_THEY_STAND
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / f"docs/guides/{name}.md").read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    """In a process of its own, as one of one under torchrun."""
    free = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port()}
    script = tmp_path / "snippet.py"
    script.write_text(code)
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env={**os.environ, **free}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])
