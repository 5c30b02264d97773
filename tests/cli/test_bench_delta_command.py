"""`keelback bench delta`: what it measures, and what it refuses."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from keelback.benchmarks import delta_peers, delta_speed
from keelback.benchmarks.delta_peers import OURS, DeltaShape, Way, ways_of
from keelback.cli import main

pytest.importorskip("transformers.models.kimi_linear")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "delta", *arguments])
    output = capsys.readouterr()
    return int(exit_.value.code or 0), output.out, output.err


@pytest.fixture(autouse=True)
def _short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_speed, "BURST", 0.001)


def test_each_row_holds_times_ratios_memory_and_errors(capsys) -> None:
    arguments = ("--shape", "1,90,4,8,8,2", "--repeats", "2", "--peer", "transformers", "--json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    result = json.loads(out)
    assert result["provenance"]["command"].startswith("keelback")
    assert result["refused"] == {}
    assert [(row["decay"], row["pass"]) for row in result["rows"]] == [
        (decay, pass_) for decay in delta_peers.DECAYS for pass_ in delta_speed.PASSES
    ]
    for row in result["rows"]:
        assert set(row["call_ms"]) == {"ours", "transformers"}
        assert row["ratios"]["call_ms"] > 0
        if row["pass"] == "step":
            assert "peak_bytes" not in row
            continue
        peaks = row["peak_bytes"]
        ratio = peaks["transformers"] / peaks["ours"]
        assert row["ratios"]["peak_bytes"] == pytest.approx(ratio)
        for errors in row["errors"].values():
            assert set(errors) == {"y", "dq", "dk", "dv", "dg", "dbeta"}
            assert max(errors.values()) < 1e-4


def test_it_is_readable_without_json(capsys, monkeypatch) -> None:
    monkeypatch.setattr(delta_speed, "_peak", lambda *given: 1)
    arguments = ("--shape", "1,20,2,8,8,2", "--repeats", "1", "--decay", "head")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out.startswith("1, 20, 2, 8, 8, 2, head, forward\n  call_ms: ours ")
    assert "channel" not in out


def _peers(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    monkeypatch.setattr(delta_peers, "LOADERS", {"head": {"transformers": lambda: way, "fla": way}})


def test_a_peer_that_computes_something_else_is_a_failure(capsys, monkeypatch) -> None:
    twice = OURS._replace(rule=lambda *given: 2 * OURS.rule(*given))
    _peers(monkeypatch, twice)
    code, out, err = run(capsys, "--shape", "1,20,2,8,8,2", "--decay", "head", "--json")
    assert (code, out) == (1, "")
    assert "the delta rule of transformers differs from ours" in err


def test_a_peer_that_refuses_is_named_with_what_it_said(capsys, monkeypatch) -> None:
    def refuse(*given: Any) -> Any:
        raise NotImplementedError("not on this card\nat all")

    _peers(monkeypatch, OURS._replace(step=refuse))
    arguments = ("--shape", "1,20,2,8,8,2", "--decay", "head", "--repeats", "1", "--json")
    monkeypatch.setattr(delta_speed, "_peak", lambda *given: 1)
    code, out, err = run(capsys, *arguments)
    assert code == 0
    found = json.loads(out)
    assert found["refused"] == {"transformers, step, decay per head": "not on this card"}
    assert "refused: transformers, step, decay per head (not on this card)" in err
    *_, step = found["rows"]
    assert set(step["call_ms"]) == {"ours"}
    assert step["ratios"] == {}


def test_fla_is_a_peer_on_a_gpu_where_it_is_installed(monkeypatch) -> None:
    """Its functions take q, k and v by position and the rest by name."""

    def theirs(q: Any, k: Any, v: Any, *, g: Any, beta: Any, **options: Any) -> Any:
        assert options.pop("use_qk_l2norm_in_kernel")
        if not options:
            return OURS.rule(q, k, v, g, beta), None
        assert options.pop("output_final_state")
        return OURS.step(options.pop("initial_state"), q, k, v, g, beta)

    module: Any = ModuleType("fla.ops.gated_delta_rule")
    module.chunk_gated_delta_rule = module.fused_recurrent_gated_delta_rule = theirs
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", module)
    ways = ways_of("head", "cuda", ["fla"])
    assert list(ways) == ["ours", "transformers", "fla"]
    assert list(ways_of("head", "cpu", [])) == ["ours", "transformers"]
    inputs, dy = delta_peers.make_inputs(
        DeltaShape(1, 30, 4, 8, 8, 2), "head", "cpu", delta_speed.dtype_named("float32")
    )
    calls = {name: way.call(inputs, dy) for name, way in ways.items()}
    errors = delta_speed.errors_of(inputs, dy, calls, set(calls))
    assert max(errors["fla"].values()) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "1,2"], "it should be batch,length,heads,key,value,groups"),
        (["--shape", "1,2,4,8,8,3"], "the groups should divide the heads"),
        (["--shape", "1,0,4,8,8,4"], "it should be batch,length"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--decay", "row"], "decay is 'row'; it should be one of head, channel"),
        (["--peer", "fla"], "peer is 'fla'; on cpu it should be one of transformers"),
        (["--dtype", "int8"], "dtype is 'int8'"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
