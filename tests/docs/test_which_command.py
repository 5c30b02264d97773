"""Every command of the page "Which command do I need" works, in the order of the page."""

import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from keelback.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/start/which-command.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (keelback.*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the repository's tests in it."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_works(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flint")
    for name, text in re.findall(r'```json title="(.*?)"\n(.*?)```', PAGE, flags=re.DOTALL):
        (checkout / name).write_text(text)
    assert len(COMMANDS) >= 12
    printed = {line: run(line, capsys) for line in COMMANDS}
    said = {line.split()[1]: " ".join(text.split()) for line, text in printed.items()}
    assert (checkout / "audit/report.html").is_file()
    assert (checkout / "mended/config.json").is_file()
    assert "Does not hold beyond its training length" in " ".join(printed[COMMANDS[1]].split())
    assert said["certificate.json"].count("ACCEPTED") == 1
    assert "risk gap" in said["bound"]
    assert (checkout / "sweep/report/report.html").is_file()
    slopes = (checkout / "sweep/report/results.json").read_text()
    assert '"slopes"' in slopes


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The output of a line, from this process: to import everything for each takes a minute.

    What checks certificates shares no code and gets a process of its own.
    """
    program, *words = shlex.split(line)
    words = [path for word in words for path in (sorted(glob.glob(word)) or [word])]
    if program == "keelback-check":
        command = [sys.executable, "-m", "keelback_check", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr()
    assert ended.value.code == 0, f"{line}\n{printed.out}{printed.err}"
    return printed.out


def test_the_python_of_the_page_runs() -> None:
    """In a process of its own: it puts a module mamba_ssm in place."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    code += "\nassert selective_scan_fn.__module__.startswith('keelback')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
