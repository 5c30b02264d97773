"""`keelback bench conv`: what it prints, and what it refuses."""

import json

import pytest

from keelback.benchmarks import conv_speed, timing
from keelback.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "conv", *arguments])
    output = capsys.readouterr()
    return int(exit_.value.code or 0), output.out, output.err


@pytest.fixture(autouse=True)
def _short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BURST", 0.001)


def test_each_row_holds_our_time_pytorchs_and_their_ratio(capsys) -> None:
    code, out, _ = run(capsys, "--shape", "2,9,4", "--shape", "1,3,20", "--repeats", "1", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["provenance"]["command"].startswith("keelback")
    assert [(row["batch"], row["length"], row["channels"]) for row in result["rows"][::2]] == [
        (2, 9, 4),
        (1, 3, 20),
    ]
    for row in result["rows"]:
        assert row["ratio"] == pytest.approx(row["peers"]["torch"] / row["ours_ms"])


def test_it_is_readable_without_json(capsys) -> None:
    code, out, _ = run(capsys, "--shape", "2,9,4", "--repeats", "1")
    assert code == 0
    assert out.startswith("2, 9, 4, forward: ")


def test_a_peer_that_computes_something_else_is_a_failure(capsys, monkeypatch) -> None:
    monkeypatch.setattr(conv_speed, "_torch", lambda x, weight, bias: 2 * x)
    code, out, err = run(capsys, "--shape", "2,9,4", "--json")
    assert (code, out) == (1, "")
    assert "the convolution of torch differs from ours" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "1,2"], "it should be batch,length,channels"),
        (["--shape", "1,2,x"], "should be batch,length,channels"),
        (["--shape", "1,0,4"], "it should be batch,length,channels"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
