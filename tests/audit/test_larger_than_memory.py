"""Checkpoints larger than what a process may take: audited and repaired block by block."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import TOKENS, forced_repair, in_shards
from safetensors.torch import save_file

from keelback.audit import audit, load_any_model
from keelback.audit._parameters import Parameters
from keelback.cli.audit import say_of_loading
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

LAYERS, WIDTH = 12, 2048
ALLOWED = 1_200_000_000
"""Bytes of address space beyond what Python takes with PyTorch and transformers."""


@pytest.mark.parametrize("family", ["mamba", "mamba2", "jamba", "qwen3-next", "kimi-linear"])
def test_streamed_as_loaded(
    tiny_model: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """Experts that are joined on loading and buffers among them: the same numbers to the bit."""
    monkeypatch.setattr("keelback.integrations._norms._FASTER_FROM", (0, 0))
    tiny_model(family).save_pretrained(tmp_path)
    in_shards(tmp_path, 3)
    whole, streamed = load_any_model(tmp_path, stream=False), load_any_model(tmp_path, stream=True)
    assert streamed.streamed
    assert not whole.streamed
    names = [name for name, _ in whole.model.named_parameters()]
    assert all(streamed.model.get_parameter(name).is_meta for name in names)
    values = Parameters(streamed.model)
    for name in names:
        assert torch.equal(values.value(name), whole.model.get_parameter(name)), name
    with torch.no_grad():
        expected, found = (
            m.model(TOKENS[None, :40], use_cache=False).logits for m in (whole, streamed)
        )
    assert torch.equal(expected, found)
    results = [audit(m.model, TOKENS, train_length=40).to_json() for m in (whole, streamed)]
    assert results[0] == results[1]
    assert all(streamed.model.get_parameter(name).is_meta for name in names)


def test_repaired_from_disk_as_from_memory(
    tiny_model: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tmp_path / "model"
    tiny_model("mamba2").save_pretrained(original)
    in_shards(original, 3)
    _, expected = forced_repair(original, tmp_path / "whole")
    monkeypatch.setattr("keelback.audit.checkpoints._load.fits_in_memory", lambda *_: False)
    loaded, found = forced_repair(original, tmp_path / "streamed")
    assert loaded.streamed
    assert found.to_json() == expected.to_json()
    for file in original.glob("*.safetensors"):
        both = [(tmp_path / name / file.name).read_bytes() for name in ("whole", "streamed")]
        assert both[0] == both[1]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_what_does_not_fit_after_all_is_streamed(
    tiny_model: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    """Near the limit, an estimate of what fits may be wrong."""
    tiny_model("mamba2").save_pretrained(tmp_path)

    def fails(*arguments: Any, **options: Any) -> Any:
        try:
            raise error
        except Exception as cause:
            raise ValueError("some tensors could not be made") from cause

    monkeypatch.setattr(transformers.Mamba2ForCausalLM, "from_pretrained", fails)
    loaded = load_any_model(tmp_path)
    assert loaded.streamed
    say_of_loading(loaded)
    assert "weights are read block by block from disk" in capsys.readouterr().err
    with pytest.raises(InputError, match="some tensors could not be made"):
        load_any_model(tmp_path, stream=False)


def test_other_failures_are_not_taken_for_a_lack_of_memory(
    tiny_model: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("mamba2").save_pretrained(tmp_path)

    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(transformers.Mamba2ForCausalLM, "from_pretrained", fails)
    with pytest.raises(InputError, match="a shape is wrong"):
        load_any_model(tmp_path)


def test_rwkv_from_disk_divides_no_weights(tmp_path: Path) -> None:
    """In evaluation it divides weights in place, which would do nothing to those on disk."""
    torch.manual_seed(0)
    config = transformers.RwkvConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=4, rescale_every=1
    )
    transformers.RwkvForCausalLM(config).save_pretrained(tmp_path)
    whole, streamed = load_any_model(tmp_path, stream=False), load_any_model(tmp_path, stream=True)
    with torch.no_grad():
        expected, found = (
            m.model(TOKENS[None, :40], use_cache=False).logits for m in (whole, streamed)
        )
    assert torch.allclose(expected, found, atol=1e-5)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Mamba of 1.2 GB in shards of one layer each; all layers have the same weights."""
    folder = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(folder).free < 5 * ALLOWED:
        pytest.skip("needs 6 GB of free disk space: for a checkpoint and two copies of it")
    config = transformers.MambaConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        state_size=4,
        architectures=["MambaForCausalLM"],
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    layer = transformers.models.mamba.modeling_mamba.MambaBlock(config, 0).state_dict()
    with torch.no_grad():
        layer = {name: x.clone() for name, x in layer.items()}
        layer["mixer.out_proj.weight"] *= 0.1
        # A block alone leaves these to its model: they are whatever lay in memory.
        layer["mixer.A_log"] = torch.arange(1.0, 5.0).log().repeat(2 * WIDTH, 1)
        layer["mixer.D"] = torch.ones(2 * WIDTH)
        layer["norm.weight"] = torch.ones(WIDTH)
    weight_map: dict[str, str] = {}
    for i in range(LAYERS):
        own = {f"backbone.layers.{i}.{name}": x for name, x in layer.items()}
        save_file(own, folder / f"layer-{i}.safetensors", {"format": "pt"})
        weight_map |= dict.fromkeys(own, f"layer-{i}.safetensors")
    rest = {
        "backbone.embeddings.weight": 0.02 * torch.randn(256, WIDTH),
        "backbone.norm_f.weight": torch.ones(WIDTH),
    }
    save_file(rest, folder / "rest.safetensors", {"format": "pt"})
    weight_map |= dict.fromkeys(rest, "rest.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def libraries() -> int:
    """Bytes of address space that the libraries take: 1 GB with a CPU build, 4 GB with CUDA's."""
    code = "from transformers import MambaForCausalLM; print(open('/proc/self/status').read())"
    status = subprocess.check_output([sys.executable, "-c", code], text=True)
    peak = next(line for line in status.splitlines() if line.startswith("VmPeak:"))
    return 1024 * int(peak.split()[1])


def limited(limit: int, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """keelback in a process that may not take more than `limit` bytes of address space."""
    shell = ("sh", "-c", f'ulimit -v {limit // 1024} && exec "$@"', "sh")
    return subprocess.run(
        [*shell, sys.executable, "-m", "keelback", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_within_a_limit_that_the_shards_together_exceed(
    large: Path, tmp_path: Path, libraries: int
) -> None:
    shards = sorted(large.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in shards) > ALLOWED
    limit = libraries + ALLOWED
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps((torch.arange(64) * 7 % 256).tolist()))
    options = ("--tokens", ids, "--train-length", 16)

    audited = limited(limit, "audit", large, *options, "--length", 32, "--json")
    assert audited.returncode == 0, audited.stderr[-2000:]
    assert "read block by block from disk" in audited.stderr
    found = json.loads(audited.stdout)
    assert found["coverage"]["layers_read"] == LAYERS

    out = tmp_path / "repaired"
    repaired = limited(
        limit,
        *("repair", large, "--out", out, *options, "--target-length", 32, "--force"),
        *("--method", "rate-scale", "--search", "shared", "--json"),
    )
    assert repaired.returncode == 0, repaired.stderr[-2000:]
    report = json.loads(repaired.stdout)
    assert len(report["tensors"]) == LAYERS
    for file in shards:
        same = file.read_bytes() == (out / file.name).read_bytes()
        assert same == (file.name == "rest.safetensors")
    taken_back = limited(limit, "repair", out, "--undo", "--out", tmp_path / "undone")
    assert taken_back.returncode == 0, taken_back.stderr[-2000:]
    for file in shards:
        assert file.read_bytes() == (tmp_path / "undone" / file.name).read_bytes()


@pytest.mark.slow
def test_within_a_limit_that_was_misjudged(large: Path, tmp_path: Path, libraries: int) -> None:
    """Loading fails for want of memory, and the model is read from disk."""
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps((torch.arange(64) * 7 % 256).tolist()))
    options = ["--tokens", str(ids), "--train-length", "16", "--length", "32", "--json"]
    program = (
        "import keelback.audit.checkpoints._load as load; load.fits_in_memory = lambda *_: True; "
        f"from keelback.cli import main; main({['audit', str(large), *options]!r})"
    )
    limit = (libraries + ALLOWED) // 1024
    audited = subprocess.run(
        ["sh", "-c", f'ulimit -v {limit} && exec "$@"', "sh", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert audited.returncode == 0, audited.stderr[-2000:]
    assert "read block by block from disk" in audited.stderr
    assert json.loads(audited.stdout)["coverage"]["layers_read"] == LAYERS
