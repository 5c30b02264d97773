"""`keelback bench parallel`: two processes compute what one does."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from keelback.benchmarks.long_scans import LongScan
from keelback.benchmarks.parallel import Sizes, benchmark
from keelback.benchmarks.parallel_training import TrainingSize
from keelback.benchmarks.processes import on_processes
from keelback.cli import main
from keelback.errors import JobError
from keelback.training import Place

pytest.importorskip("accelerate")

TINY = ["--d-model", "16", "--layers", "1", "--seq-len", "16", "--batch", "2", "--length", "96"]
TINY += ["--channels", "64", "--state", "4", "--repeats", "1"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "parallel", *arguments])
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "both"], "it should be one of training, scan, ssd"),
        (["--processes", "1"], "--processes is 1; it should be a whole number, 2 or more"),
        (["--length", "101"], "length 101 should be a multiple of the 2 processes"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--only", "ssd", "--channels", "100"], "channels is 100; for a scan by heads it should"),
        (["--only", "ssd", "--dtype", "int8"], "dtype is 'int8'"),
        (["--only", "scan", "--dtype", "float32"], "--dtype has no effect beside --only scan"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, *arguments)


def count(place: Place, upto: int) -> Iterator[int]:
    yield from range(upto)
    raise ValueError("there are no more")


def wait(place: Place) -> Iterator[int]:
    yield os.getpid()
    time.sleep(600.0)


@pytest.mark.slow
def test_values_are_there_before_a_failure() -> None:
    values = on_processes(count, 2, "cpu", 3)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(JobError, match=r"one of 2 processes failed: .*there are no more"):
        next(values)


@pytest.mark.slow
def test_processes_end_with_whoever_wants_their_values() -> None:
    values = on_processes(wait, 2, "cpu")
    process = next(values)
    os.kill(process, 0)
    values.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_rows_so_far_are_in_the_parts_of_the_result() -> None:
    large = TrainingSize(16, 1, 16, batch=1)
    sizes = Sizes(large, [2, 4], [LongScan(96, 16, 4)], [], repeats=1)
    planned = benchmark(2, "cpu", sizes)
    curve, two, four, scan = planned.names
    assert (curve, scan) == ("loss curve of 32 channels", "scan of 96 steps, A times 1")
    assert (two, four) == ("training, 2 examples per process", "training, 4 examples per process")
    found = {curve: {"loss_curves": [1]}, two: {"scaling": [2, 3], "loss_curves": [4]}}
    assert planned.result(found) == {"loss_curves": [1, 4], "scaling": [2, 3]}
    found |= {four: {"scaling": [5]}, scan: {"scans": [6]}}
    assert planned.result(found)["scaling"] == [2, 3, 5]
    assert list(planned.result(found)) == ["loss_curves", "scaling", "scans"]


@pytest.mark.slow
def test_two_processes_train_and_scan_as_one_does() -> None:
    command = [sys.executable, "-m", "keelback", "bench", "parallel", *TINY, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    in_float32, in_bfloat16 = result["loss_curves"]
    assert in_float32["loss, last epoch"] < in_float32["loss, first epoch"]
    assert in_float32["largest difference, 2 and 1"] < 1e-5
    assert in_bfloat16["precision"] == "bfloat16"
    assert in_bfloat16["largest difference, 2 and 1"] < 0.1
    weak, strong = result["scaling"]
    assert (weak["examples a step, 1"], weak["examples a step, 2"]) == (2, 4)
    assert (strong["examples a step, 1"], strong["examples a step, 2"]) == (4, 4)
    assert strong["efficiency"] == pytest.approx(
        strong["steps a second, 2"] / strong["steps a second, 1"] / 2
    )
    for part in ("scans", "scans_by_heads"):
        assert [row["pass"] for row in result[part]] == ["forward", "forward+backward"] * 2
        for row in result[part]:
            assert row["error, 2 to 1"] < 1e-5
            assert row["1 to float64"] < 1e-5
            assert row["2 to float64"] < 1e-5
    assert {row["heads"] for row in result["scans_by_heads"]} == {1}
