"""`keelback bench transformers`: what it measures, of which peers, and what it refuses."""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

from keelback.benchmarks import transformers_speed
from keelback.benchmarks.timing import interleaved_medians
from keelback.benchmarks.transformers_speed import ModelSize, who_computes
from keelback.cli import main

hub_kernels = pytest.importorskip("transformers.integrations.hub_kernels")
modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")

SMALL = ("--d-model", "32", "--layers", "1", "--length", "40", "--repeats", "1", "--json")
FUSED = "mamba2_split_conv1d_scan_combined"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "transformers", *arguments])
    output = capsys.readouterr()
    return int(exit_.value.code or 0), output.out, output.err


@pytest.fixture(autouse=True)
def _short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(interleaved_medians, burst=0.001)
    monkeypatch.setattr(transformers_speed, "interleaved_medians", short)


def install(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any] = lambda found: found
) -> Counter[str]:
    """Packages by which transformers' Mamba-2 computes what it computes itself; counts the calls.

    The decorator is that of transformers, which chooses among a package and its own function.
    """
    calls: Counter[str] = Counter()

    def counted(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def theirs(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            found = own(*args, **kwargs)
            return change(found) if isinstance(found, torch.Tensor) else found

        theirs.__module__ = f"{packages[name]}.ops"
        theirs.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
        return theirs

    packages = {
        name: "causal_conv1d" if name.startswith("causal") else "mamba_ssm"
        for name in who_computes(modeling)
    }
    for name, package in packages.items():
        function = getattr(modeling, name)
        own = function.__wrapped__
        module = sys.modules.get(package) or ModuleType(package)
        monkeypatch.setitem(sys.modules, package, module)
        monkeypatch.setattr(module, name, counted(name, own), raising=False)
        monkeypatch.setattr(hub_kernels, "_KERNELS_INTERNAL_PATH_MAPPINGS", {})
        decorate = hub_kernels.use_kernel_func_from_hub_with_fallback(name, package)
        monkeypatch.setattr(modeling, name, decorate(own))
    return calls


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_each_way_has_a_row_and_the_same_step(capsys, family: str) -> None:
    code, out, err = run(capsys, *SMALL, "--family", family, "--batch", "2")
    assert code == 0
    assert "absent: mamba_ssm (transformers does not call it for causal_conv1d_" in err
    result = json.loads(out)
    assert result["provenance"]["command"].startswith("keelback")
    assert [row["scan"] for row in result["rows"]] == ["keelback", "transformers"]
    ours, theirs = result["rows"]
    took = "seconds a training step"
    assert result["ratios"]["training"]["transformers"] == pytest.approx(theirs[took] / ours[took])
    speed = "generated tokens a second"
    assert result["ratios"]["generation"]["transformers"] == pytest.approx(
        ours[speed] / theirs[speed]
    )
    assert set(result["differences"]) == {"transformers"}
    assert 0 < result["differences"]["transformers"]["gradients"] < 1e-4
    assert result["differences"]["transformers"]["loss"] < 1e-6
    assert result["refused"] == {}


def test_generation_is_measured_alone_where_training_is_known() -> None:
    size = ModelSize("mamba", layers=1, d_model=32, length=40)
    planned = transformers_speed.benchmark(size, "cpu", 1, new_tokens=3)
    training = {"ms": {"keelback": 500.0, "transformers": 2000.0}, "parameters": 7}
    training |= {"differences": {"transformers": {"loss": 0.5}}, "refused": {}}
    part = planned.result({"training": training})
    assert part["ratios"] == {"training": {"transformers": 4.0}}
    assert [row["generated tokens a second"] for row in part["rows"]] == [None, None]
    [found] = planned.measured({"training": training})
    assert found["training"] == training
    whole = planned.result(found)
    assert [row["seconds a training step"] for row in whole["rows"]] == [0.5, 2.0]
    assert set(whole["ratios"]) == {"training", "generation"}
    assert whole["differences"] == {"transformers": {"loss": 0.5}}
    assert whole["parameters"] > 7


def test_packages_are_a_peer_and_the_own_path_does_without_them(capsys, monkeypatch) -> None:
    calls = install(monkeypatch)
    assert set(who_computes(modeling).values()) == {"mamba_ssm", "causal_conv1d"}
    few = (*SMALL, "--family", "mamba2")
    code, out, _ = run(capsys, *few, "--peer", "mamba_ssm", "--without", "transformers")
    assert code == 0
    assert [row["scan"] for row in json.loads(out)["rows"]] == ["keelback", "mamba_ssm"]
    assert min(calls[name] for name in who_computes(modeling)) > 0
    fused = calls[FUSED]
    code, out, _ = run(capsys, *few, "--without", "mamba_ssm")
    assert code == 0
    assert [row["scan"] for row in json.loads(out)["rows"]] == ["keelback", "transformers"]
    assert calls[FUSED] == fused


def test_a_peer_that_computes_something_else_is_a_failure(capsys, monkeypatch) -> None:
    install(monkeypatch, torch.cos)
    code, out, err = run(capsys, *SMALL, "--family", "mamba2")
    assert (code, out) == (1, "")
    assert "the gradients of mamba_ssm differ from keelback's by" in err


def test_a_peer_that_fails_is_named_with_what_it_said(capsys, monkeypatch) -> None:
    def short_of_memory(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("no memory is left\nat all")

    monkeypatch.setattr(modeling.mamba2_chunk_scan, "__wrapped__", short_of_memory)
    code, out, err = run(capsys, *SMALL, "--family", "mamba2")
    assert code == 0
    result = json.loads(out)
    assert result["refused"]["transformers, training"] == "no memory is left"
    assert "refused: transformers, training (no memory is left)" in err
    assert result["rows"][1]["seconds a training step"] is None
    assert result["ratios"]["training"] == {}


def test_it_is_readable_without_json(capsys) -> None:
    code, out, _ = run(capsys, *SMALL[:-1])
    assert code == 0
    assert out.startswith("keelback\n  seconds a training step: ")
    assert "training, time of transformers / keelback: " in out


def test_a_mamba_2_of_130_million_parameters() -> None:
    size = ModelSize("mamba2", layers=24, d_model=768)
    with torch.device("meta"):
        model = size.model("meta")
    assert 1.28e8 < sum(p.numel() for p in model.parameters()) < 1.30e8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "rwkv"], "family is 'rwkv'; it should be one of mamba, mamba2"),
        (["--family", "mamba2", "--d-model", "50"], "it should be a multiple of 32"),
        (["--peer", "nobody"], "peer is 'nobody'; it should be one of mamba_ssm, transformers"),
        (["--peer", "mamba_ssm"], "peer mamba_ssm cannot be called: transformers does not call it"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
