"""Benchmarks measure rows into a file: after each row it is whole JSON, and it can be continued."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from keelback.benchmarks import conv_speed, family_support
from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.cli.parameters import commands
from keelback.errors import InputError

Cli = Callable[..., tuple[int, str, str]]

CONV = ("bench", "conv", "--shape", "1,3,4", "--shape", "2,3,4", "--repeats", "1")
ROWS = [f"{pass_} on {shape}" for shape in ("1,3,4", "2,3,4") for pass_ in conv_speed.PASSES]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An entry for each pass that was timed; the third one ends by what is put in beside them."""
    timed: list[str] = []

    def time_once(calls: Any, device: str, repeats: int, *more: float) -> dict[str, float]:
        timed.append("a row")
        if "interrupt" in timed and timed.count("a row") == 3:
            raise KeyboardInterrupt
        if "fail" in timed and timed.count("a row") == 3:
            raise RuntimeError("no memory is left")
        return {name: float(timed.count("a row")) for name in calls}

    monkeypatch.setattr(conv_speed, "interleaved_medians", time_once)
    return timed


def written(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_the_file_holds_what_json_prints(cli: Cli, tmp_path: Path, measured: list[str]) -> None:
    out = tmp_path / "conv.json"
    code, printed, _ = cli(*CONV, "--out", out, "--json")
    assert code == 0
    assert written(out) == json.loads(printed)
    assert len(written(out)["rows"]) == 4
    assert {"not_measured", "measured"}.isdisjoint(written(out))
    assert [path.name for path in tmp_path.iterdir()] == ["conv.json"]


@pytest.mark.parametrize(("end", "exit_code"), [("interrupt", 130), ("fail", 1)])
def test_rows_so_far_are_in_the_file_and_printed(
    cli: Cli, tmp_path: Path, measured: list[str], end: str, exit_code: int
) -> None:
    measured.append(end)
    out = tmp_path / "conv.json"
    code, printed, err = cli(*CONV, "--out", out, "--json")
    assert code == exit_code
    found = written(out)
    assert found == json.loads(printed)
    assert [row["pass"] for row in found["rows"]] == list(conv_speed.PASSES)
    assert found["not_measured"] == ROWS[2:]
    assert f"not measured: {'; '.join(ROWS[2:])}\n" in err


def test_the_same_command_measures_what_is_missing(
    cli: Cli, tmp_path: Path, measured: list[str]
) -> None:
    measured.append("interrupt")
    out = tmp_path / "conv.json"
    cli(*CONV, "--out", out)
    before = written(out)
    measured.clear()
    code, _, _ = cli(*CONV, "--json", "--out", out, "--quiet")
    assert code == 0
    assert measured == ["a row"] * 2
    found = written(out)
    assert found["rows"][:2] == before["rows"]
    assert [row["ours_ms"] for row in found["rows"]] == [1.0, 2.0, 1.0, 2.0]
    assert "not_measured" not in found
    assert found["provenance"] == before["provenance"] | {"last": found["provenance"]["last"]}
    code, printed, _ = cli(*CONV, "--out", out, "--json")
    assert code == 0
    assert measured == ["a row"] * 2
    assert found == written(out) == json.loads(printed)


def test_a_row_within_a_group_is_measured_alone(measured: list[str]) -> None:
    benchmark = conv_speed.benchmark([(1, 3, 4)], "cpu", "float32", 1)
    [both, found] = [benchmark.names, list(benchmark.measured({"forward on 1,3,4": "known"}))]
    assert measured == ["a row"]
    assert [list(one) for one in found] == [both]
    assert found[0]["forward+backward on 1,3,4"]["pass"] == "forward+backward"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"commit": "0123456789ab"}, "another commit"),
        ({"device": "NVIDIA H200"}, "another device"),
        ({"versions": {"torch": "1.0"}}, "other versions of libraries"),
        ({"python": "3.9", "keelback": "0.0.1"}, "another version of keelback, another Python"),
    ],
)
def test_rows_of_other_code_or_another_device_are_not_continued(
    cli: Cli, tmp_path: Path, measured: list[str], changed: dict[str, Any], what: str
) -> None:
    out = tmp_path / "conv.json"
    cli(*CONV, "--out", out)
    document = written(out)
    document["provenance"] |= changed
    out.write_text(json.dumps(document))
    measured.clear()
    code, printed, err = cli(*CONV, "--out", out)
    assert (code, printed) == (2, "")
    assert err == f"error: {out} was measured with {what}; remove it or name another file\n"
    assert measured == []
    assert written(out) == document


def test_rows_beside_other_peers_are_not_continued(
    cli: Cli, tmp_path: Path, measured: list[str]
) -> None:
    out = tmp_path / "conv.json"
    cli(*CONV, "--out", out)
    document = written(out)
    document["versions"]["causal-conv1d"] = "1.0"
    out.write_text(json.dumps(document))
    code, _, err = cli(*CONV, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "was measured with other versions or settings; remove it or name another file" in err


@pytest.mark.parametrize(
    "other",
    [
        ("--repeats", "2"),
        ("--shape", "3,3,4"),
        ("--dtype", "bfloat16"),
    ],
)
def test_other_options_are_another_result(
    cli: Cli, tmp_path: Path, measured: list[str], other: tuple[str, str]
) -> None:
    out = tmp_path / "conv.json"
    cli(*CONV, "--out", out)
    before = out.read_bytes()
    code, printed, err = cli(*CONV, *other, "--out", out)
    assert (code, printed) == (2, "")
    assert err == (
        f"error: {out} was measured with other options; remove it or name another file\n"
    )
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"provenance": 3}', "\xff", '{"a": 1'])
def test_another_file_stays(cli: Cli, tmp_path: Path, measured: list[str], content: str) -> None:
    out = tmp_path / "other"
    out.write_text(content, encoding="latin-1")
    code, printed, err = cli(*CONV, "--out", out)
    assert (code, printed) == (2, "")
    assert err == f"error: {out} is not a result of this command; name another file\n"
    assert out.read_text(encoding="latin-1") == content


def test_where_no_file_can_be_written_nothing_is_measured(
    cli: Cli, tmp_path: Path, measured: list[str]
) -> None:
    code, _, err = cli(*CONV, "--out", tmp_path)
    assert (code, err) == (2, f"error: --out is {tmp_path}, a folder; it should be a file\n")
    out = tmp_path / "none" / "conv.json"
    code, _, err = cli(*CONV, "--out", out)
    assert (code, err) == (2, f"error: --out is {out}; its folder does not exist\n")
    assert measured == []


def test_what_is_asked_for_twice_is_refused(cli: Cli, measured: list[str]) -> None:
    code, _, err = cli(*CONV, "--shape", "1,3,4")
    said = "forward on 1,3,4 would be measured twice; ask for it once"
    assert (code, err) == (2, f"error: {said}\n")


def test_a_result_goes_through_json_so_that_a_continued_one_is_the_same() -> None:
    def measure(chosen: Sequence[int]) -> Iterator[Any]:
        for one in chosen:
            yield {one: (one, one)}

    benchmark = Benchmark([Group({"one": 1, "two": 2}, measure)])
    whole = benchmark.run()
    assert whole == {"rows": [{"1": [1, 1]}, {"2": [2, 2]}]}
    first = next(benchmark.measured())
    [last] = benchmark.measured(json.loads(json.dumps(first)))
    assert benchmark.result(last) == whole


def test_a_group_that_gives_too_few_rows_is_an_error() -> None:
    benchmark = Benchmark([Group({"one": 1, "two": 2}, lambda chosen: iter([1]))])
    with pytest.raises(ValueError, match="shorter"):
        benchmark.run()
    with pytest.raises(InputError, match="one would be measured twice"):
        Benchmark([*benchmark.groups, *benchmark.groups])


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The families that were tried, each in no time; the second one interrupts."""
    tried: list[str] = []

    def row(family: str) -> dict[str, Any]:
        tried.append(family)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return {"family": family, "replay": None}

    monkeypatch.setattr(family_support, "row", row)
    return tried


def test_a_folder_has_its_table_once_all_is_measured(
    cli: Cli, tmp_path: Path, families: list[str]
) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "a" / "b"
    command = ("bench", "families", "--family", "mamba", "--family", "mamba2", "--out", out)
    assert cli(*command)[0] == 130
    assert [path.name for path in out.iterdir()] == ["results.json"]
    assert written(out / "results.json")["not_measured"] == ["mamba2"]
    assert cli(*command)[0] == 0
    assert families == ["mamba", "mamba2", "mamba2"]
    assert [row["family"] for row in written(out / "results.json")["rows"]] == ["mamba", "mamba2"]
    assert (out / "families.csv").read_text().splitlines()[1:] == ["mamba,,,,,,,", "mamba2,,,,,,,"]
    assert cli(*command[:-1], tmp_path / "c")[0] == 0


def test_a_folder_without_a_row_is_taken_back(
    cli: Cli, tmp_path: Path, families: list[str]
) -> None:
    pytest.importorskip("transformers")
    families.append("the first")
    out = tmp_path / "a" / "b"
    assert cli("bench", "families", "--family", "mamba", "--out", out)[0] == 130
    assert list(tmp_path.iterdir()) == []


WITHOUT_FILE = {"bench calibration"}
"""Its cases are known only once the models are trained that they are made from."""


@pytest.mark.parametrize("command", [name for name in commands() if name.startswith("bench ")])
def test_every_benchmark_has_a_file(command: str) -> None:
    [out] = [one for one in commands()[command] if one.name == "--out"]
    assert ("written after each row" in out.help) == (command not in WITHOUT_FILE)


KILLED = """
import time
from keelback.benchmarks import conv_speed as module
from keelback.cli import main

original = module.interleaved_medians
timed = []

def slow(*given, **named):
    timed.append(1)
    if len(timed) == 4:
        print("waiting", flush=True)
        time.sleep(120)
    return original(*given, **named)

module.interleaved_medians = slow
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_benchmark_that_is_ended_leaves_its_rows(tmp_path: Path, number: int) -> None:
    out = tmp_path / "conv.json"
    words = [*CONV, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    ends = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert process.returncode == ends[number]
    found = written(out)
    assert len(found["rows"]) == 3
    assert found["not_measured"] == ROWS[3:]
    assert [path.name for path in tmp_path.iterdir()] == ["conv.json"]
