"""Fuzzing: its judge can fail, its damage is damage, and a short run finds nothing."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import fuzz_commands  # noqa: E402
import fuzz_materials  # noqa: E402
from keelback.cli.parameters import commands  # noqa: E402

WRONG = "error: it is wrong\n"


@pytest.mark.parametrize(
    ("code", "out", "err", "after", "fault"),
    [
        (-9, "", "", {}, "ends with -9"),
        (1, "", f"Traceback (most recent call last):\n{WRONG}", {}, "a traceback"),
        (1, "", "error: unexpected KeyError: 'a'\n", {}, "an error that nothing expected"),
        (2, "", "", {}, "0 lines of error"),
        (2, "", WRONG * 2, {}, "2 lines of error"),
        (0, "\x1b[31m", "", {}, "a raw control character"),
        (2, "", WRONG, {"new": None}, "input is wrong, and files were changed: ['new']"),
        (1, "", WRONG, {"a/.b.part": b""}, "something half written: ['a/.b.part']"),
    ],
)
def test_each_fault_is_seen(
    code: int, out: str, err: str, after: dict[str, bytes | None], fault: str
) -> None:
    assert list(fuzz_commands.faults(code, out, err, {}, after)) == [fault]


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_what_is_promised_is_no_fault(code: int) -> None:
    err = WRONG if code in (1, 2) else ""
    assert list(fuzz_commands.faults(code, "a\n", err, {"a": b""}, {"a": b""})) == []


def test_every_command_is_tried() -> None:
    tried = {
        " ".join(line.split()[: 1 + line.startswith("bench")]) for line in fuzz_commands.WORKING
    }
    assert tried == set(commands())


def test_damage_is_damage(tmp_path: Path) -> None:
    document = json.dumps({"a": [1, 2, {"b": "c"}], "d": 3})
    ways = set()
    for seed in range(200):
        path = tmp_path / f"{seed}.json"
        path.write_text(document)
        ways.add(fuzz_materials.damage(path, random.Random(seed)).split()[0])
    assert len(ways) > 6
    changed = [
        path for path in (tmp_path / f"{seed}.json" for seed in range(200))
        if not path.is_file() or path.read_text(errors="replace") != document
    ]  # fmt: skip
    assert len(changed) > 180


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    script = ROOT / "tools" / "fuzz_commands.py"
    out = tmp_path / "found.json"
    command = [sys.executable, str(script), "--inputs", "15", "--seed", "11", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["inputs"] == 15
    assert found["faults"] == []
