"""The program as a whole: version, help, notes, signals, want of memory, progress in logs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import keelback
from keelback.cli.app import SECTIONS, _flags_first, main
from keelback.cli.progress import _Lines
from keelback.memory import available_bytes, in_units, require_memory
from keelback.progress import in_words


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capfd.readouterr()
    return int(str(ended.value.code)), out, err


def test_it_says_its_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], capfd) == (0, f"keelback {keelback.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (["audit", ""], "an argument of `keelback audit` is empty"),
        (["", "audit"], "an argument of `keelback` is empty"),
        (["train", "--task", "majority", "--out", ""], "the value of --out is empty"),
        (["repair", "model", "--out="], "the value of --out is empty"),
        (["--plugin", "", "list"], "the value of --plugin is empty"),
        (["train", "--set", "seed=1", ""], "an argument of `keelback train` is empty"),
    ],
)
def test_an_empty_word_is_no_path_and_no_name(
    line: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a path it would be the current folder."""
    assert run(line, capfd) == (2, "", f"error: {complaint}\n")


@pytest.mark.parametrize("command", ["audit", "bench scan", "reproduce"])
def test_h_is_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run([*command.split(), "-h"], capfd)
    assert code == 0
    assert out.startswith(f"Usage: keelback {command} ")


def test_help_shows_every_command_in_its_section(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    _, out, _ = run(["--help"], capfd)
    for title, names in SECTIONS.items():
        assert f"\n{title}:\n" in out
        for name in names:
            assert f"\n  {name} " in out
    assert "Others" not in out
    assert "..." not in out.split("Commands")[-1].split("COMMAND [ARGS]...")[-1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    words = {
        "bash": {"COMP_WORDS": "keelback re", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "keelback re"},
        "fish": {"_TYPER_COMPLETE_ARGS": "keelback re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {**os.environ, "_KEELBACK_COMPLETE": f"complete_{shell}", **words}
    command = [sys.executable, "-m", "keelback"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert {"repair", "report", "reproduce"} <= set(done.stdout.replace('"', " ").split())


def test_flags_may_stand_after_the_command() -> None:
    assert _flags_first(["audit", "m", "--quiet"]) == ["--quiet", "audit", "m"]
    assert _flags_first(["audit", "--", "--quiet"]) == ["audit", "--", "--quiet"]


def test_a_command_without_enough_memory_says_so_in_a_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["train", "--task", "majority", "--out", str(tmp_path / "o"), "--seq-len"]
    code, _, err = run([*arguments, "1000000000000"], capfd)
    assert code == 2
    assert err.startswith("error: the bits of both splits would take ")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("width", ["100000000000", "1000000000000000000000"])
def test_a_model_that_does_not_fit_is_refused(
    width: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["train", "--task", "majority", "--seq-len", "10", "--out", str(tmp_path / "o")]
    code, _, err = run([*arguments, "--set", f"model.d_model={width}"], capfd)
    assert code == 2
    assert err.count("\n") == 1


def test_memory_is_counted_in_units_that_people_read() -> None:
    assert [in_units(x) for x in (0, 1023, 1024, 1.5 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
    ]
    assert 0 < available_bytes() < 2**60
    require_memory(1, "a byte")
    with pytest.raises(ValueError, match=r"these would take 1.0 EiB of memory; .* are free"):
        require_memory(2.0**60, "these")


def test_progress_in_a_log_is_a_line_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("keelback.cli.progress._SECONDS_BEFORE_LINES", 2.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lines = _Lines("work")
    for second in range(30):
        clock[0] = float(second)
        lines("", second, 30)
    assert capfd.readouterr().err.splitlines() == [
        "work: 7% after 2 s, about 28 s left",
        "work: 40% after 12 s, about 18 s left",
        "work: 73% after 22 s, about 8 s left",
    ]
    lines("counting", 0, 0)
    clock[0] = 60.0
    lines.write()
    assert capfd.readouterr().err == "work, counting: under way for 31 s\n"
    assert [in_words(x) for x in (3, 65, 7265)] == ["3 s", "1 min 5 s", "2 h 1 min"]


def test_sigterm_ends_a_sweep_without_leaving_workers(tmp_path: Path) -> None:
    out = str(tmp_path / "sweep")
    command = [sys.executable, "-m", "keelback", "reproduce", "length-independence", "--no-report"]
    options = ["--task", "majority", "--seeds", "40", "--out", out]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "sweep" / "manifest.json").exists():
        time.sleep(0.1)
    time.sleep(2.0)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "terminated; what was finished is kept"
    assert "leaked" not in err
    assert "Traceback" not in err


def test_an_interrupt_inside_a_callback_of_compiled_code_still_ends_the_command() -> None:
    """Where Python would print a traceback and go on."""
    script = """
import ctypes, os, signal, sys, time
from keelback.cli.app import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)

def command(*given, **named):
    callback()
    time.sleep(60)

import keelback.cli.app as program
program.load_commands()
program.app = command
main(["list"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; what was finished is kept\n"


def test_doctor_examines_this_installation(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["doctor", "--json"], capfd)
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0
    assert checks["scan on cpu"]["state"] == "ok"
    assert {check["state"] for check in checks.values()} <= {"ok", "missing"}


def test_doctor_says_what_does_not_work(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from keelback.cli import doctor

    broken = doctor.Check("scan on cpu", "failed", "no compiler")
    monkeypatch.setattr(doctor, "examine", lambda: iter([broken]))
    code, out, err = run(["doctor"], capfd)
    assert code == 1
    assert "no compiler" in out
    assert err == "error: failed: scan on cpu\n"


def test_doctor_cuts_no_path(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from keelback.cli import doctor

    folder = "/".join(["", *(f"folder-{number}" for number in range(20))])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Check("cache", "ok", folder)]))
    _, out, _ = run(["doctor"], capfd)
    assert folder in "".join(out.split())


@pytest.mark.parametrize(
    ("interrupt", "code", "said"),
    [("KeyboardInterrupt", 130, "interrupted"), ("_Terminated", 143, "terminated")],
)
def test_an_interrupt_that_a_compiler_swallows_is_not_taken_for_its_failure(
    interrupt: str, code: int, said: str
) -> None:
    """Numba then says that a library has "no compiled object yet"."""
    program = f"""
import keelback.cli.reproduce as reproduce
from keelback.cli.app import _Terminated, main

class Callback:
    def __del__(self):
        raise {interrupt}

def compile(_):
    Callback()
    raise RuntimeError("no compiled object yet")

reproduce.print_json = compile
main(["list", "--json"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"{said}; what was finished is kept\n"
