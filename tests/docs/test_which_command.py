"""Every command of the page "Which command do I need" works, in the order of the page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/start/which-command.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (keelback.*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's tests in it, and programs that are those of this Python."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    programs = tmp_path / ".bin"
    programs.mkdir()
    for name in ("keelback", "keelback-check"):
        program = programs / name
        module = name.replace("-", "_")
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_works(checkout: Path) -> None:
    pytest.importorskip("flint")
    for name, text in re.findall(r'```json title="(.*?)"\n(.*?)```', PAGE, flags=re.DOTALL):
        (checkout / name).write_text(text)
    assert len(COMMANDS) >= 12
    printed = {line: run(line, checkout) for line in COMMANDS}
    said = {line.split()[1]: " ".join(text.split()) for line, text in printed.items()}
    assert (checkout / "audit/report.html").is_file()
    assert (checkout / "mended/config.json").is_file()
    assert "Does not hold beyond its training length" in " ".join(printed[COMMANDS[1]].split())
    assert said["certificate.json"].count("ACCEPTED") == 1
    assert "risk gap" in said["bound"]
    assert (checkout / "sweep/report/report.html").is_file()
    slopes = (checkout / "sweep/report/results.json").read_text()
    assert '"slopes"' in slopes


def run(line: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_python_of_the_page_runs() -> None:
    """In a process of its own: it puts a module mamba_ssm in place."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    code += "\nassert selective_scan_fn.__module__.startswith('keelback')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
