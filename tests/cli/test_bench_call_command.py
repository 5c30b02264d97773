"""`keelback bench call`."""

import json
import subprocess
import sys

import pytest

from keelback.benchmarks.call_speed import OPERATORS, PASSES, ScanSize, benchmark
from keelback.errors import InputError


def test_every_operator_and_pass_has_a_row() -> None:
    command = [sys.executable, "-m", "keelback", "bench", "call", "--shape", "2,3,4,4"]
    done = subprocess.run([*command, "--repeats", "1", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    found = [(row["operator"], row["pass"]) for row in result["rows"]]
    assert len(set(found)) == len(found)
    assert {name for name, _ in found} == set(OPERATORS)
    assert [pass_ for name, pass_ in found if name == "selective_scan"] == list(PASSES)
    assert all(row["ours_us"] > 0 for row in result["rows"])
    assert "command" in result["provenance"]


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(InputError, match="operator is 'scan'; it should be one of selective_scan"):
        benchmark(["scan"], ScanSize(1, 1, 1, 1), "cpu", "float32", 1)
