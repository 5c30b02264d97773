"""`keelback watch`: once into a pipe, live on a terminal, and options that do not go together."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keelback.cli import main
from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run
from keelback.sweeps import RunResult, Store

Cli = Callable[..., tuple[int, str, str]]


def finish(store: Store, seed: int) -> str:
    majority = preset(LENGTH_INDEPENDENCE, "majority")
    run = selective_ssm_run("majority", majority, seq_len=5, seed=seed, epochs=1)
    history = [{"epoch": epoch, "loss": 2.0 - epoch} for epoch in range(2)]
    store.add(run, RunResult({"diverged": seed == 2, "epochs": 1}, history), {})
    return run.name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s")


def test_into_a_pipe_it_prints_once_and_without_escapes(cli: Cli, store: Store) -> None:
    names = [finish(store, seed) for seed in (1, 2)]
    for arguments in ((), ("--once",)):
        before = dict(os.environ)
        code, out, err = cli("watch", store.directory, *arguments)
        assert dict(os.environ) == before
        assert (code, err) == (0, "")
        assert "2 runs finished, 1 of them diverged; nothing is under way" in out
        assert all(name in out for name in names)
        assert "█▁" in out
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) < 200


def test_json_is_the_snapshot(cli: Cli, store: Store) -> None:
    finish(store, 1)
    code, out, _ = cli("watch", store.directory, "--json")
    seen = json.loads(out)
    assert (code, seen["state"]) == (0, "finished")
    assert seen["runs"][0]["curves"] == {"loss": [[0.0, 2.0], [1.0, 1.0]]}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_follows_a_store_until_all_is_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins empty, and a run comes while it is watched."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")  # No line is broken.
    later = threading.Timer(1.0, finish, (store, 1))
    later.start()
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(store.directory), "--every", "0.2"])
    later.join()
    assert ended.value.code == 0
    shown = terminal.getvalue()
    assert shown.index("nothing is finished yet") < shown.index("1 run finished")
    assert "\x1b[" in shown


def test_ctrl_c_ends_it_without_a_complaint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, said = Terminal(), io.StringIO()

    def interrupted(seconds: float) -> None:
        if seconds == 77:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr("keelback.cli.watch.time.sleep", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(store.directory), "--every", "77"])
    assert ended.value.code == 0
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--serve", "--once"), "--once has no effect beside --serve"),
        (("--serve", "--json"), "--json has no effect beside --serve"),
        (("--port", "8000"), "add --serve"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    cli: Cli, store: Store, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = cli("watch", store.directory, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_foreign_folder_is_one_line_and_exit_2(cli: Cli, tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "is empty"), (tmp_path / "none", "does not exist")):
        code, out, err = cli("watch", folder, "--serve")
        assert (code, out) == (2, "")
        assert said in err
        assert err.count("\n") == 1
