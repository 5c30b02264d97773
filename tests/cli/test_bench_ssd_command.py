"""`keelback bench ssd`: what it measures, of which peers, and what it refuses."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from keelback.benchmarks import ssd_peers, ssd_speed
from keelback.benchmarks.ssd_peers import SsdCall, SsdInputs, SsdShape, keelback, make_inputs
from keelback.cli import main
from keelback.errors import InputError, JobError

SHAPE = SsdShape(2, 30, 4, 8, 16, 2)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "ssd", *arguments])
    output = capsys.readouterr()
    return int(exit_.value.code or 0), output.out, output.err


@pytest.fixture(autouse=True)
def _short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_speed, "BURST", 0.001)


def peer(monkeypatch: pytest.MonkeyPatch, change: Callable[[SsdCall], SsdCall]) -> None:
    """Let the one peer on a CPU be keelback with a change."""
    loaders = {"cpu": {"transformers": lambda: lambda inputs: change(keelback(inputs))}}
    monkeypatch.setattr(ssd_peers, "LOADERS", loaders)


def test_each_row_holds_times_errors_and_the_ratio(capsys, monkeypatch) -> None:
    peer(monkeypatch, lambda call: call)
    code, out, _ = run(capsys, "--shape", "1,9,2,4,8,1", "--repeats", "1", "--json")
    assert code == 0
    result = json.loads(out)
    assert "torch" in result["versions"]
    assert result["refused"] == {}
    assert [row["pass"] for row in result["rows"]] == list(ssd_speed.PASSES)
    for row in result["rows"]:
        times = row["call_ms"]
        assert row["ratios"] == {"call_ms": pytest.approx(times["transformers"] / times["ours"])}
        for errors in row["errors"].values():
            assert set(errors) == {"y", "dx", "ddt", "dA", "dB", "dC", "dD", "ddt_bias"}
            assert max(errors.values()) < 1e-4


def test_it_is_readable_without_json(capsys, monkeypatch) -> None:
    peer(monkeypatch, lambda call: call)
    code, out, _ = run(capsys, "--shape", "1,9,2,4,8,1", "--repeats", "1")
    assert code == 0
    assert out.startswith("1, 9, 2, 4, 8, 1, forward\n  call_ms: ours ")


def test_a_peer_that_computes_something_else_is_a_failure(capsys, monkeypatch) -> None:
    peer(monkeypatch, lambda call: replace(call, run=lambda *given: 2 * call.run(*given)))
    code, out, err = run(capsys, "--shape", "1,9,2,4,8,1", "--json")
    assert (code, out) == (1, "")
    assert "the scan by heads of transformers differs from ours" in err


@pytest.mark.parametrize("of_training", [False, True])
def test_a_peer_that_refuses_is_named_with_what_it_said(
    capsys, monkeypatch, of_training: bool
) -> None:
    def refuse(call: SsdCall) -> SsdCall:
        def run(*operands: Tensor) -> Tensor:
            if torch.is_grad_enabled() or not of_training:
                raise NotImplementedError("not on this card\nat all")
            return call.run(*operands)

        return replace(call, run=run)

    peer(monkeypatch, refuse)
    code, out, err = run(capsys, "--shape", "1,9,2,4,8,1", "--repeats", "1", "--json")
    assert code == 0
    found = json.loads(out)
    refused = [] if of_training else ["transformers, forward on 1,9,2,4,8,1"]
    refused.append("transformers, forward+backward on 1,9,2,4,8,1")
    assert found["refused"] == dict.fromkeys(refused, "not on this card")
    for name in refused:
        assert f"refused: {name} (not on this card)" in err
    forward, training = found["rows"]
    assert ("transformers" in forward["call_ms"]) == of_training
    assert list(training["call_ms"]) == ["ours"]
    assert training["ratios"] == {}


def by_loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor]:
    """fla's `chunk_simple_gla` with its signature, step by step in float64."""
    assert g is not None
    assert g_gamma is None
    assert q.shape == k.shape == (*v.shape[:3], q.shape[3])
    assert g.shape == v.shape[:3]
    assert g.dtype == torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    states = torch.zeros(v.shape[0], v.shape[2], q.shape[3], v.shape[3], dtype=torch.float64)
    y = []
    for t in range(v.shape[1]):
        decays = g[:, t].double().exp()[..., None, None]
        states = decays * states + k[:, t].double()[..., None] * v[:, t].double()[..., None, :]
        y.append(scale * (q[:, t].double()[..., None, :] @ states).squeeze(-2))
    return torch.stack(y, dim=1).to(v.dtype), states


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("fla.ops.simple_gla")
    module.chunk_simple_gla = by_loop
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", module)


def inputs() -> SsdInputs:
    """With a skip connection of its own for each head."""
    found = make_inputs(SHAPE, "cpu", torch.float32)
    return replace(found, D=torch.linspace(-2.0, 2.0, SHAPE.heads))


@pytest.mark.usefixtures("fla")
def test_fla_computes_the_scan_without_the_skip_connection() -> None:
    given = inputs()
    prepare = ssd_peers.peers_of("cuda", ["fla"])["fla"]
    calls = {"ours": keelback(given), "fla": prepare(given)}
    errors = ssd_speed.errors_of(given, calls, set(calls))
    assert list(errors["fla"]) == ["y"]
    assert errors["fla"]["y"] < 1e-6
    assert errors["ours"]["y"] < 1e-6
    gradients = calls["fla"].forward_and_backward()
    assert [x.shape for x in gradients] == [x.shape for x in calls["fla"].leaves]


@pytest.mark.usefixtures("fla")
@pytest.mark.parametrize("wrong", ["heads", "scale", "steps"])
def test_another_mapping_to_fla_is_noticed(monkeypatch, wrong: str) -> None:
    def other(q: Tensor, k: Tensor, v: Tensor, g: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
        if wrong == "heads":
            q = q.flip(2)
        if wrong == "scale":
            named = {}
        if wrong == "steps":
            g = 2 * g
        return by_loop(q, k, v, g, **named)

    monkeypatch.setattr(sys.modules["fla.ops.simple_gla"], "chunk_simple_gla", other)
    given = inputs()
    call = ssd_peers.peers_of("cuda", ["fla"])["fla"](given)
    with pytest.raises(JobError, match="the scan by heads of fla differs from ours"):
        ssd_speed.errors_of(given, {"fla": call}, set())


def test_peers_that_are_absent_are_named(capsys, monkeypatch) -> None:
    for name in ("mamba_ssm", "fla"):
        monkeypatch.setitem(sys.modules, name, None)
    assert ssd_peers.peers_of("cuda", []) == {}
    err = capsys.readouterr().err
    assert "absent: mamba_ssm (" in err
    assert "absent: fla (" in err
    with pytest.raises(InputError, match="peer fla cannot be imported"):
        ssd_peers.peers_of("cuda", ["fla"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "1,2"], "it should be batch,length,heads,head_dim,state,groups"),
        (["--shape", "1,2,4,8,8,3"], "the groups should divide the heads"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--peer", "fla"], "peer is 'fla'; on cpu it should be one of transformers"),
        (["--dtype", "int8"], "dtype is 'int8'"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
