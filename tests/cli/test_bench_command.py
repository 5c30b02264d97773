"""`keelback bench scan`: what it prints, and what it refuses."""

import json

import pytest
import torch

from keelback.benchmarks import ScanSize, scan_cost, scan_peers
from keelback.benchmarks.scan_inputs import Inputs
from keelback.cli import main
from keelback.cli.bench import _print_rows
from keelback.errors import InputError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "scan", *arguments])
    output = capsys.readouterr()
    return int(exit_.value.code or 0), output.out, output.err


def test_each_row_holds_our_time_the_peers_and_the_ratio_to_the_fastest(capsys) -> None:
    code, out, _ = run(
        capsys, "--shape", "2,16,4,2", "--shape", "1,8,20,3", "--repeats", "1", "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert result["device"] == "cpu"
    assert {"keelback", "torch"} <= result["versions"].keys()
    assert [(row["batch"], row["pass"]) for row in result["rows"]] == [
        (2, "forward"),
        (2, "forward+backward"),
        (1, "forward"),
        (1, "forward+backward"),
    ]
    for row in result["rows"]:
        assert row["dtype"] == "float32"
        assert row["ours_ms"] > 0
        assert "torch_associative_scan" in row["peers"]
        assert row["ratio"] == pytest.approx(min(row["peers"].values()) / row["ours_ms"])


def test_the_table_says_what_its_ratio_is(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"dtype": "float32", "ours_ms": 2.0, "peers": {"loop": 6.0}, "ratio": 3.0}
    _print_rows({"rows": [times]})
    words = " ".join(capsys.readouterr().out.split())
    assert "ratio: the fastest peer's time / keelback's" in words
    _print_rows({"rows": [{"ratio": 1.5}]})  # as --memory has it
    assert "fastest" not in capsys.readouterr().out


def test_an_absent_peer_is_named(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(inputs):
        raise ImportError("No module named 'mambapy'")

    monkeypatch.setitem(scan_peers.PEERS, "cpu", {"mambapy_pscan": absent})
    code, out, err = run(capsys, "--shape", "1,8,4,2", "--repeats", "1", "--json")
    assert code == 0
    assert "absent: mambapy_pscan (No module named 'mambapy')" in err
    assert all(row["peers"] == {} and "ratio" not in row for row in json.loads(out)["rows"])


def test_a_peer_that_must_be_there_fails_when_it_is_absent(capsys, monkeypatch) -> None:
    def absent(inputs):
        raise ModuleNotFoundError("No module named 'mambapy'", name="mambapy")

    monkeypatch.setitem(scan_peers.PEERS, "cpu", {"mambapy_pscan": absent})
    sizes = ("--shape", "1,8,4,2", "--repeats", "1", "--json")
    code, out, err = run(capsys, *sizes, "--peer", "mambapy_pscan")
    assert (code, out) == (2, "")
    assert "peer mambapy_pscan cannot be imported: No module named 'mambapy'" in err
    assert 'pip install "keelback[bench]"' in err
    code, out, err = run(capsys, *sizes, "--peer", "nobody")
    assert (code, out) == (2, "")
    assert "peer is 'nobody'; on cpu it should be one of mambapy_pscan" in err


def test_a_peer_that_computes_something_else_is_a_failure(capsys, monkeypatch) -> None:
    def wrong(inputs):
        call = scan_peers.keelback(inputs)
        return scan_peers.Call(call.leaves, call.dy, lambda *operands: 2 * call.run(*operands))

    monkeypatch.setitem(scan_peers.PEERS, "cpu", {"wrong": wrong})
    code, out, err = run(capsys, "--shape", "1,8,4,2", "--json")
    assert (code, out) == (1, "")
    assert "the output of wrong differs from ours" in err


def test_scaling_fits_an_exponent(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_cost, "LENGTHS", (64, 128, 256))
    code, out, _ = run(capsys, "--scaling", "--repeats", "1", "--json")
    assert code == 0
    result = json.loads(out)
    assert [row["length"] for row in result["rows"]] == [64, 128, 256]
    assert result["exponents"].keys() == {"forward", "forward_backward"}


def test_memory_is_that_of_the_tensors_and_little_more(capsys) -> None:
    code, out, _ = run(capsys, "--memory", "--shape", "1,20000,64,16", "--json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    sizes = 20_000 * (3 * 64 + 2 * 16) + 64 * 16
    assert row["tensor_bytes"] == 2 * 4 * sizes
    assert 0.9 < row["ratio"] < 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "1,2,3"], "it should be four positive integers"),
        (["--shape", "1,0,3,4"], "it should be four positive integers"),
        (["--device", "tpu"], "device is 'tpu'; it should be one of cpu"),
        (["--dtype", "int8"], "dtype is 'int8'; it should be one of float32"),
        (["--repeats", "0"], "--repeats is 0; it should be a whole number"),
        (["--scaling", "--memory"], "--scaling and --memory are both given"),
    ],
)
def test_wrong_options_exit_with_2(capsys, arguments, message) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--peer", "nobody"], "peer is 'nobody'; it should be mamba_ssm"),
        (["decode", "--groups", "2"], "--groups needs --heads: without heads there is one group"),
        (["decode", "--heads", "7"], "channels, heads and groups are 1536, 7 and 1; each should"),
        (["decode", "--dtype", "float64"], "dtype is 'float64'; it should be one of float32"),
    ],
)
def test_a_decoding_step_is_refused_what_it_cannot_time(capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_peer_that_does_not_take_the_dtype_is_named(capsys, monkeypatch) -> None:
    def narrow(inputs: Inputs) -> scan_peers.Call:
        call = scan_peers.keelback(inputs)
        return scan_peers.Call(call.leaves, call.dy, lambda u, *rest: u @ torch.ones(4, 4))

    monkeypatch.setitem(scan_peers.PEERS, "cpu", {"narrow": narrow})
    sizes = ("--shape", "1,8,4,2", "--repeats", "1", "--dtype", "bfloat16")
    code, out, err = run(capsys, *sizes, "--json")
    assert code == 0
    assert "absent: narrow (in bfloat16" in err
    assert all(row["peers"] == {} for row in json.loads(out)["rows"])


def test_shapes_are_read() -> None:
    assert ScanSize.parse("256, 500,16,4") == ScanSize(256, 500, 16, 4)
    with pytest.raises(InputError, match="shape is 'a,b,c,d'"):
        ScanSize.parse("a,b,c,d")
