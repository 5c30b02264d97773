"""Models come from four kinds of folder; whatever is wrong with one is said in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from keelback.audit import load_any_model
from keelback.errors import InputError
from keelback.models import SelectiveSSMConfig, save_model

TOKENS = torch.arange(3, 23)[None]


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.fixture
def folder(tiny_model: Callable[[str], Any], tmp_path: Path) -> Path:
    """A transformers folder of a tiny Mamba."""
    tiny_model("mamba").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_transformers_folder(folder: Path, tiny_model: Callable[[str], Any]) -> None:
    loaded = load_any_model(folder)
    assert loaded.name == "model"
    assert loaded.folder == folder
    assert not loaded.model.training
    expected = logits(tiny_model("mamba"))
    torch.testing.assert_close(logits(loaded.model), expected, rtol=0, atol=1e-5)


def test_weights_are_converted_on_request(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    assert next(load_any_model(folder).model.parameters()).dtype == torch.float32
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert next(load_any_model(folder, dtype=None).model.parameters()).dtype == torch.bfloat16


def mamba_ssm_folder(model: Any, folder: Path, config: dict[str, Any], binary: bool) -> Path:
    """Writes a model of transformers in mamba_ssm's layout."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    state = {
        name.replace("backbone.embeddings.", "backbone.embedding."): tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    if binary:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return folder


MAMBA_SSM = {"d_model": 32, "n_layer": 2, "vocab_size": 61, "rms_norm": True}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("mamba", {"ssm_cfg": {}}),
        ("mamba2", {"ssm_cfg": {"layer": "Mamba2", "ngroups": 2, "dt_limit": [0.001, 0.09]}}),
    ],
)
def test_mamba_ssm_folders_give_the_same_logits(
    tiny_model: Callable[[str], Any],
    tmp_path: Path,
    family: str,
    fields: dict[str, Any],
    binary: bool,
) -> None:
    original = tiny_model(family)
    config = MAMBA_SSM | fields | {"tie_embeddings": original.config.tie_word_embeddings}
    folder = mamba_ssm_folder(original, tmp_path / "m", config, binary)
    assert torch.allclose(logits(load_any_model(folder).model), logits(original), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"attn_layer_idx": [1]}, "attention layers"),
        ({"d_intermediate": 64}, "MLP layers"),
        ({"rms_norm": False}, "LayerNorm"),
        ({"n_layer": 3}, "layers.2"),
    ],
)
def test_mamba_ssm_layouts_without_a_counterpart(
    tiny_model: Callable[[str], Any], tmp_path: Path, field: dict[str, Any], words: str
) -> None:
    folder = mamba_ssm_folder(tiny_model("mamba"), tmp_path / "m", MAMBA_SSM | field, False)
    with pytest.raises(InputError, match=words):
        load_any_model(folder)


def test_keelback_checkpoints(tmp_path: Path) -> None:
    model = SelectiveSSMConfig(vocab_size=5).build()
    save_model(model, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        assert torch.equal(load_any_model(source).model.ssm.A, model.ssm.A)


SHARED = Path(__file__).parents[3] / "shared" / "reference" / "checkpoints"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no reference checkpoints")
def test_reference_state_dicts() -> None:
    model = load_any_model(SHARED / "majority_T100_seed1.pth").model
    assert model.ssm.A.shape == (4, 4)


def missing_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    own = {name: t for name, t in tensors.items() if weights[name] == "model-0.safetensors"}
    save_file(own, folder / "model-0.safetensors", {"format": "pt"})


def cut_off(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


class RunsCode:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.touched),)


def hostile_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"A": RunsCode(folder / "touched")}, folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "run.Me"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.py").write_text("import os; os.mkdir('touched')")


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: tensors.pop(name))


def not_finite(folder: Path) -> None:
    rewrite(folder, lambda t: t["backbone.layers.1.mixer.D"].fill_(float("nan")))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (missing_shard, "1 of 2 checkpoint shards are missing.*model-1.safetensors"),
        (cut_off, "damaged or cut off"),
        (hostile_pickle, "could run code"),
        (remote_code, "code of its own, which keelback never runs"),
        (drop("backbone.layers.1.mixer.A_log"), "lacks 1 .*layers.1.mixer.A_log"),
        (not_finite, "64 of 64 entries of backbone.layers.1.mixer.D are NaN"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "not a model configuration"),
        (lambda f: (f / "config.json").unlink(), "not saved by keelback"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    ],
)
def test_damaged_folders(folder: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        load_any_model(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "touched").exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_any_model(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        load_any_model(tmp_path / "x")
