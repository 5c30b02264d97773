"""What other people's names and texts may do to a terminal: nothing."""

import io
import json
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
