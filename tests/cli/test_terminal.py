"""What other people's names and texts may do to a terminal: nothing."""

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keelback.cli.terminal import CleanStream, clean_streams, console

Cli = Callable[..., tuple[int, str, str]]
RED = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e"
SHOWN = "�[31mred�]0;title��2J�"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_streams_are_cleaned() -> None:
    stream = io.StringIO()
    CleanStream(stream).write(f"a\tb\r\n{RED}é\x1b[A")
    assert stream.getvalue() == f"a\tb\r\n{SHOWN}é�[A"


def test_on_a_terminal_bars_may_move_up_and_rich_may_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with clean_streams():
        print(f"{RED}\x1b[A")
        console(force_terminal=True, color_system="standard").print("[red]x[/red]")
    assert stream.getvalue() == f"{SHOWN}\x1b[A\n\x1b[31mx\x1b[0m\n"
    assert sys.stdout is stream


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_colours_that_are_forced_leave_no_marks_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv(name, "1")
    with clean_streams():
        console().print("[red]x[/red]")
    assert stream.getvalue() == "x\n"


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_width_that_shows_nothing_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    console().print("a result of thirty characters.")
    assert stream.getvalue() == "a result of thirty characters.\n"


def shell(command: str, folder: Path) -> tuple[int, str, str]:
    """Run `keelback` as the command says, from a folder."""
    command = command.replace("keelback", f"{shlex.quote(sys.executable)} -m keelback --quiet")
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    code, _, err = shell(f"keelback list {closed}", tmp_path)
    assert (code, err) == (0, "")


def test_a_working_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code, _, err = shell("cd gone; rmdir ../gone; keelback runs /", tmp_path)
    said = "error: the working folder does not exist any more; change to one that does\n"
    assert (code, err) == (2, said)


def test_escapes_of_stored_runs_are_shown_as_marks(tmp_path: Path, cli: Cli) -> None:
    few = ["--set", "task_settings.n_train=32", "--set", "task_settings.n_test=32"]
    train = ["train", "--task", "majority", "--seq-len", "6", "--epochs", "1", *few]
    assert cli(*train, "--out", tmp_path)[0] == 0
    [record] = tmp_path.glob("runs/*/run.json")
    document = json.loads(record.read_text())
    document["summary"][RED] = RED
    record.write_text(json.dumps(document))
    for arguments in ([], ["--columns", "all"], ["--columns", RED], ["--where", f"{RED}=1"]):
        _, out, err = cli("runs", tmp_path, *arguments)
        assert not any(letter in out + err for letter in "\x1b\x07\x9b\u202e")


def test_escapes_in_a_checkpoints_names_are_shown_as_marks(tmp_path: Path, cli: Cli) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({RED: torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"config": RED})
    for command in (["evaluate", "--task", "majority"], ["audit"], ["certify", "--task", "imdb"]):
        code, out, err = cli(command[0], tmp_path / "x.safetensors", *command[1:])
        assert code == 2
        assert not any(letter in out + err for letter in "\x1b\x07\x9b\u202e")


def test_escapes_in_options_are_shown_as_marks(cli: Cli) -> None:
    code, _, err = cli("train", "--task", RED, "--out", "nowhere")
    assert code == 2
    assert err.startswith("error: there is no task")
    assert not any(letter in err for letter in "\x1b\x07\x9b\u202e")
