"""Models inside wrappers, in other types, placed elsewhere: audited as the model inside."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from keelback.audit import AuditResult, audit, find_layers, repair, unwrapped
from keelback.audit._parameters import Parameters

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(3, 61, (160,), generator=torch.Generator().manual_seed(3))
FAMILIES = ("mamba", "mamba2", "jamba", "qwen3.5")


def audited(model: nn.Module) -> AuditResult:
    return audit(model, TOKENS, train_length=40, length=80)


def same(found: AuditResult, expected: AuditResult) -> bool:
    """All numbers alike, up to what another order of additions makes."""
    return _alike(found.to_json() | {"model": ""}, expected.to_json() | {"model": ""})


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        unlike = ("verdict", "findings", "replay")
        return one.keys() == other.keys() and all(
            _alike(one[k], other[k]) for k in one if k not in unlike
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-3, abs=1e-5)
    return bool(one == other)


@pytest.fixture(params=FAMILIES)
def wrapped_model(request: pytest.FixtureRequest, tiny_model: Callable[[str], Any]) -> nn.Module:
    """A copy, to be wrapped."""
    return copy.deepcopy(tiny_model(request.param))


def test_compiled_as_a_whole(wrapped_model: Any) -> None:
    expected = audited(copy.deepcopy(wrapped_model))
    compiled = torch.compile(wrapped_model, backend="aot_eager")
    with torch.no_grad():
        compiled(TOKENS[None, :20], use_cache=False)
    found = audited(compiled)
    assert unwrapped(compiled) is wrapped_model
    assert found.to_json() == expected.to_json()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wrapped_model.modules())


def test_compiled_in_place_and_in_parts(tiny_model: Callable[[str], Any]) -> None:
    """Graphs that were made before keep their old hooks and weights: they must not be used."""
    model = copy.deepcopy(tiny_model("mamba"))
    expected = audited(copy.deepcopy(model))
    in_place = copy.deepcopy(model)
    in_place.compile(backend="aot_eager")
    in_parts = copy.deepcopy(model)
    blocks = in_parts.backbone.layers
    for i in range(len(blocks)):
        blocks[i].mixer.in_proj = torch.compile(blocks[i].mixer.in_proj, backend="aot_eager")
    for own in (in_place, in_parts):
        with torch.no_grad():
            own(TOKENS[None, :128], use_cache=False)
        found = audited(own)
        assert found.to_json()["precision"] == expected.to_json()["precision"]
        assert same(found, expected)
    assert in_place._compiled_call_impl is not None


def test_in_float64(wrapped_model: Any) -> None:
    expected = audited(copy.deepcopy(wrapped_model))
    if "Jamba" in type(wrapped_model).__name__:
        pytest.skip("transformers' experts do not take float64")
    found = audited(wrapped_model.double())
    # The parts that are rounded to half precision come from other numbers.
    assert same(replace(found, precision=()), replace(expected, precision=()))
    for one, other in zip(found.precision, expected.precision, strict=True):
        assert one.precision == other.precision
        assert one.agreement == pytest.approx(other.agreement, abs=0.05)
        assert one.headroom == pytest.approx(other.headroom, rel=1e-3)
    assert max(own.replay.worst for own in found.measures) < 1e-5
    assert next(wrapped_model.parameters()).dtype == torch.float64


def test_under_autocast(wrapped_model: Any) -> None:
    expected = audited(copy.deepcopy(wrapped_model))
    with torch.autocast("cpu", torch.bfloat16):
        found = audited(wrapped_model)
    assert found.not_audited == expected.not_audited
    for one, other in zip(found.measures, expected.measures, strict=True):
        assert one.spectral_abscissa == other.spectral_abscissa
        assert one.replay.is_proof
        horizons = float(one.longest_horizon.median()), float(other.longest_horizon.median())
        assert horizons[0] == pytest.approx(horizons[1], rel=0.05)


def test_with_adapters_of_peft(wrapped_model: Any) -> None:
    peft = pytest.importorskip("peft")
    targets = ["in_proj", "x_proj", "dt_proj", "out_proj", "in_proj_qkv", "in_proj_a", "in_proj_z"]
    if wrapped_model.config.model_type in ("mamba", "mamba2"):
        targets.remove("out_proj")  # PEFT refuses it there
    targets = [t for t in targets if any(n.endswith(t) for n, _ in wrapped_model.named_modules())]
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(wrapped_model, config).eval()
    found = audited(model)
    assert [m for m in found.not_audited if "." in m.what] == []
    assert [own.layer.name for own in found.measures] == [
        x.name for x in find_layers(unwrapped(model))
    ]
    assert max(own.replay.worst for own in found.measures) < 1e-3
    assert found.losses


def test_a_repair_beneath_adapters(tiny_model: Callable[[str], Any]) -> None:
    peft = pytest.importorskip("peft")
    own = copy.deepcopy(tiny_model("mamba2"))
    model = peft.get_peft_model(own, peft.LoraConfig(r=2, target_modules=["in_proj"])).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = repair(
        model, TOKENS, target_length=40, train_length=20, method="rate-scale", search="shared",
        force=True,
    )  # fmt: skip
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"base_model.model.{name}" for name in result.replaced}
    result.undo(model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", ["cpu", "disk", "spread"])
def test_placed_by_accelerate(
    tiny_model: Callable[[str], Any], tmp_path: Path, family: str, place: str
) -> None:
    accelerate = pytest.importorskip("accelerate")
    original = tiny_model(family)
    original.save_pretrained(tmp_path / "model")
    expected = audited(copy.deepcopy(original))
    cls = type(original)
    if place == "cpu":
        model = accelerate.cpu_offload(copy.deepcopy(original), torch.device("cpu"))
    elif place == "disk":
        model = accelerate.disk_offload(
            copy.deepcopy(original), tmp_path / "offload", torch.device("cpu")
        )
    else:
        device_map: dict[str, str] = {}
        for name, _ in original.named_children():
            device_map[name] = "cpu"
        (base,) = [n for n in device_map if n not in ("lm_head",)]
        del device_map[base]
        for name, child in getattr(original, base).named_children():
            if name != "layers":
                device_map[f"{base}.{name}"] = "cpu"
                continue
            for i in range(len(child)):
                device_map[f"{base}.layers.{i}"] = "disk" if i % 2 else "cpu"
        model = cls.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
        )
    assert any(p.is_meta for p in model.parameters())
    assert Parameters(model).are_elsewhere
    found = audited(model)
    assert same(found, expected)
    assert any(p.is_meta for p in model.parameters())


def _distributed(rank: int, world: int, kind: str, meeting: Path, results: Any) -> None:
    torch.set_num_threads(1)
    # They meet at a file: a port may be taken, and its server is one more thread of process 0.
    store = torch.distributed.FileStore(str(meeting), world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    model = transformers.MambaForCausalLM(config).eval()
    if kind == "ddp":
        parallel: Any = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for layer in model.backbone.layers:
            fully_shard(layer.mixer if kind == "fsdp-mixers" else layer)
        parallel = fully_shard(model)
    results[rank] = audited(parallel).to_json()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp-mixers"])
def test_spread_over_processes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    expected = audited(transformers.MambaForCausalLM(config).eval()).to_json()
    with mp.Manager() as manager:
        results = manager.dict()
        forked.on_processes(2, _distributed, 2, kind, tmp_path / "meeting", results)
        found = dict(results)
    assert sorted(found) == [0, 1]
    for own in found.values():
        assert _alike(own | {"model": ""}, expected | {"model": ""})
