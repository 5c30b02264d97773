"""Every tensor and every setting of a checkpoint is used, or named in an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import TOKENS, forced_repair, in_shards
from safetensors.torch import load_file, save_file
from torch import nn

from keelback.audit import audit, load_any_model
from keelback.cli import main
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")


def settings(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    own = load_file(folder / "model.safetensors")
    change(own)
    save_file(own, folder / "model.safetensors", {"format": "pt"})


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS[None, :20], use_cache=False).logits


@pytest.fixture
def saved(tiny_model: Callable[[str], Any], tmp_path: Path) -> Callable[[str], Path]:
    """Writes a tiny model of a family to a folder."""

    def save(family: str) -> Path:
        tiny_model(family).save_pretrained(tmp_path / family)
        return tmp_path / family

    return save


def test_every_family_comes_back_as_it_was(
    model: nn.Module, saved: Callable[[str], Path], family: str
) -> None:
    """No setting or tensor that transformers itself writes is taken for a stray one."""
    loaded = load_any_model(saved(family))
    assert type(loaded.model) is type(model)
    assert list(loaded.unused) == []
    found = loaded.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name
    # Buffers that are not saved count too. Tensors of a file lie elsewhere in memory than those
    # that PyTorch allocates, and a product may round otherwise there.
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "family", ["glm5-next", "minicpm-v4.6", "nemotron-h-omni", "qwen3.5-vision"]
)
def test_the_head_of_a_composite_is_loaded(
    tiny_model: Callable[[str], Any], saved: Callable[[str], Path], family: str
) -> None:
    loaded = load_any_model(saved(family))
    assert type(loaded.model) is type(tiny_model(family))
    result = audit(loaded.model, TOKENS, train_length=40, precision=False)
    assert result.losses
    assert result.degradation is not None
    assert "does not predict" not in result.verdict
    text = loaded.model.config.get_text_config()
    expected = getattr(text, "max_position_embeddings", None) or 2048
    assert audit(loaded.model, TOKENS, precision=False).span.train_length == expected


def test_a_classifier_is_loaded_as_one(saved: Callable[[str], Path]) -> None:
    folder = saved("mamba")
    settings(folder, architectures=["MambaModel"])
    assert type(load_any_model(folder).model).__name__ == "MambaModel"
    settings(folder, architectures=None)
    assert type(load_any_model(folder).model).__name__ == "MambaForCausalLM"
    settings(folder, architectures=["MambaForMindReading"])
    loaded = load_any_model(folder)
    assert type(loaded.model).__name__ == "MambaForCausalLM"
    assert "MambaForMindReading" in loaded.remarks[0]


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        ("mamba2", {"norm_before_gate": True}, "norm_before_gate"),
        ("mamba2", {"rms_norm": False}, "rms_norm"),
        ("mamba", {"use_second_direction": True}, "use_second_direction"),
        ("mamba", {"use_gate": False}, "use_gate"),
        ("jamba", {"mamba_rotary": 0, "d_inner": 5}, "d_inner, mamba_rotary"),
        ("mamba2", {"dt_limit": [0.001, 0.1]}, "dt_limit"),
        ("mamba2", {"ngroups": 4, "headdim": 4}, "headdim, ngroups"),
        ("mamba2", {"dt_softplus": False}, "dt_softplus"),
        ("mamba", {"bias": True}, "bias"),
        ("mamba", {"activation": "gelu"}, "activation"),
        ("qwen3-next", {"chunk_size": 4, "g": 1}, "chunk_size, g"),
        ("nemotron-h", {"sliding_window": 64}, "sliding_window"),
        ("xlstm", {"add_out_norm": False}, "add_out_norm"),
        ("mamba", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling"),
        ("mamba2", {"add_cross_attention": True}, "add_cross_attention"),
        ("jamba", {"pruned_heads": {"2": [1]}}, "pruned_heads"),
        ("recurrent-gemma", {"_block_types": ["attention"]}, "_block_types"),
    ],
)
def test_settings_that_nothing_uses(
    saved: Callable[[str], Path], family: str, fields: dict[str, Any], named: str
) -> None:
    folder = saved(family)
    settings(folder, **fields)
    with pytest.raises(InputError, match=f"nothing in its model uses.*: {named}. If they may"):
        load_any_model(folder)
    loaded = load_any_model(folder, ignore=list(fields))
    assert list(loaded.unused) == sorted(fields)


def test_settings_of_a_part(saved: Callable[[str], Path]) -> None:
    folder = saved("qwen3.5-vision")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["reverse_time"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"text_config\.reverse_time"):
        load_any_model(folder)


def test_settings_of_a_tower_that_nothing_uses(saved: Callable[[str], Path]) -> None:
    """Transformers' code does not use this one, which says how large images were in training."""
    folder = saved("nemotron-h-omni")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["image_size"] = 512
    (folder / "config.json").write_text(json.dumps(config))
    assert list(load_any_model(folder).unused) == []
    config["text_config"]["sliding_window"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r": text_config\.sliding_window\. If"):
        load_any_model(folder)


def test_settings_of_published_checkpoints(saved: Callable[[str], Path]) -> None:
    """As conversion scripts left them in configurations of Mamba on the Hub."""
    folder = saved("mamba")
    settings(
        folder,
        d_inner=64,
        d_model=32,
        n_layer=2,
        fused_add_norm=True,
        rms_norm=True,
        ssm_cfg={},
        d_state=4,
        d_conv=4,
        bias=False,
        conv_bias=True,
        activation="silu",
        rescale_prenorm_residual=False,
        pad_vocab_size_multiple=8,
        torch_dtype="float32",
        use_cache=True,
        _name_or_path="elsewhere",
        transformers_version="4.39.0.dev0",
    )
    assert list(load_any_model(folder).unused) == []


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon-mamba"])
def test_weights_are_not_initialised_again(saved: Callable[[str], Path], family: str) -> None:
    """transformers divides the output projections of what it loads, as if they were new."""
    folder = saved(family)
    settings(folder, rescale_prenorm_residual=True)
    loaded = load_any_model(folder)
    held = loaded.model.state_dict()
    for name, own in load_file(folder / "model.safetensors").items():
        assert torch.equal(held[name], own)
    [remark] = loaded.remarks
    assert "rescale_prenorm_residual" in remark


def test_weights_that_change_on_the_way_are_named(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("mamba")
    assert list(load_any_model(folder).remarks) == []
    load = transformers.MambaForCausalLM.from_pretrained

    def changed(*arguments: Any, **named: Any) -> Any:
        model, loading = load(*arguments, **named)
        with torch.no_grad():
            model.backbone.layers[1].mixer.D.mul_(2)
        return model, loading

    monkeypatch.setattr(transformers.MambaForCausalLM, "from_pretrained", changed)
    [remark] = load_any_model(folder).remarks
    assert "loading changed 1 parameters" in remark
    assert "backbone.layers.1.mixer.D" in remark


def test_a_setting_with_two_values(saved: Callable[[str], Path]) -> None:
    file = saved("mamba") / "config.json"
    file.write_text('{"state_size": 8, ' + file.read_text().lstrip()[1:])
    with pytest.raises(InputError, match="state_size stands in it twice"):
        load_any_model(file.parent)


def test_tensors_that_nothing_uses(
    saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("mamba")
    tensors(folder, lambda own: own.update({"backbone.layers.0.mixer.A_b_log": torch.ones(2)}))
    with pytest.raises(InputError, match=r"tensors that nothing.*layers\.0\.mixer\.A_b_log"):
        load_any_model(folder)
    loaded = load_any_model(folder, ignore=["*.A_b_log"])
    assert list(loaded.unused) == ["backbone.layers.0.mixer.A_b_log"]
    ids = folder / "ids.json"
    ids.write_text(json.dumps(TOKENS[:40].tolist()))
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(folder), "--tokens", str(ids), "--ignore", "*.A_b_log", "--json"])
    assert ended.value.code == 0
    assert "not used by the model: backbone.layers.0.mixer.A_b_log" in capsys.readouterr().err


def test_heads_that_transformers_leaves_out_are_named(saved: Callable[[str], Path]) -> None:
    folder = saved("qwen3-next")
    tensors(folder, lambda own: own.update({"mtp.norm.weight": torch.ones(2)}))
    assert list(load_any_model(folder).unused) == ["mtp.norm.weight"]


def test_ties_that_do_not_hold(saved: Callable[[str], Path]) -> None:
    folder = saved("mamba")
    head = 2 * load_file(folder / "model.safetensors")["backbone.embeddings.weight"]
    tensors(folder, lambda own: own.update({"lm_head.weight": head}))
    with pytest.raises(
        InputError, match=r"share lm_head\.weight with backbone\.embeddings\.weight"
    ):
        load_any_model(folder)
    settings(folder, tie_word_embeddings=False)
    assert torch.equal(load_any_model(folder).model.lm_head.weight, head)


def test_adapters_beside_a_model(saved: Callable[[str], Path]) -> None:
    folder = saved("mamba")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapters of PEFT"):
        load_any_model(folder)


BLOCK = 16


def in_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix in blocks of 16 by 16, each with the inverse of its scale."""
    rows, columns = (-(-size // BLOCK) for size in weight.shape)
    scales = torch.empty(rows, columns)
    quantised = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    for i in range(rows):
        for j in range(columns):
            part = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
            scales[i, j] = weight[part].abs().max() / 448
            quantised[part] = (weight[part] / scales[i, j]).to(torch.float8_e4m3fn)
    return quantised, scales


def quantise(folder: Path, names: tuple[str, ...]) -> None:
    def change(own: dict[str, torch.Tensor]) -> None:
        for name in [n for n in own if n.endswith(names)]:
            own[name], own[f"{name}_scale_inv"] = in_fp8(own[name])

    tensors(folder, change)


PROJECTIONS = ("in_proj_qkv.weight", "in_proj_z.weight", "linear_attn.out_proj.weight")


def test_fp8_with_its_scales(
    tiny_model: Callable[[str], Any], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = saved("qwen3.5")
    quantise(folder, PROJECTIONS)
    others = [
        name
        for name, module in tiny_model("qwen3.5").named_modules()
        if isinstance(module, nn.Linear) and not f"{name}.weight".endswith(PROJECTIONS)
    ]
    scheme = {
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
        "activation_scheme": "dynamic",
        "modules_to_not_convert": others,
    }
    settings(folder, quantization_config=scheme)
    loaded = load_any_model(folder)
    for name, parameter in tiny_model("qwen3.5").named_parameters():
        error = (loaded.model.get_parameter(name) - parameter).norm() / parameter.norm()
        assert (0.001 < error < 0.05) if name.endswith(PROJECTIONS) else error == 0, name
    assert not any("A_log" in name for name in loaded.locked)
    locked = {name for name in loaded.locked if name.endswith(PROJECTIONS)}
    assert len(locked) == 9
    before = (folder / "model.safetensors").read_bytes()
    _, result = forced_repair(folder, tmp_path / "repaired")
    assert all(name.endswith("A_log") for name in result.replaced)
    after = (tmp_path / "repaired" / "model.safetensors").read_bytes()
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 3 * 4 * 4


@pytest.mark.parametrize("scaled", [True, False])
def test_fp8_that_nothing_tells_how_to_read(saved: Callable[[str], Path], scaled: bool) -> None:
    folder = saved("qwen3.5")
    quantise(folder, PROJECTIONS)
    if not scaled:
        tensors(folder, lambda own: [own.pop(n) for n in list(own) if "scale_inv" in n])
    with pytest.raises(InputError, match="scale_inv" if scaled else "stored as F8_E4M3"):
        load_any_model(folder)
    with pytest.raises(InputError, match="stored as F8_E4M3"):
        load_any_model(folder, ignore=["*_scale_inv"])


def test_whole_numbers_for_weights(saved: Callable[[str], Path]) -> None:
    folder = saved("mamba")
    name = "backbone.layers.0.mixer.in_proj.weight"
    tensors(folder, lambda own: own.update({name: (20 * own[name]).to(torch.int8)}))
    with pytest.raises(InputError, match=f"{name} is stored as I8"):
        load_any_model(folder)


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ({"quant_method": "pixie-dust", "bits": 3}, "'pixie-dust' of config.json is not one"),
        ({"bits": 3}, "names no quant_method"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "cannot be loaded"),
    ],
)
def test_quantisation_that_cannot_be_read(
    saved: Callable[[str], Path], scheme: dict[str, Any], words: str
) -> None:
    folder = saved("mamba")
    settings(folder, quantization_config=scheme)
    with pytest.raises(InputError, match=words):
        load_any_model(folder)


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json"])
def test_quantisation_described_elsewhere(saved: Callable[[str], Path], name: str) -> None:
    folder = saved("mamba")
    (folder / name).write_text("{}")
    with pytest.raises(InputError, match=f"has a {name}: its weights are quantised"):
        load_any_model(folder)


MAMBA_SSM = {"d_model": 32, "n_layer": 2, "vocab_size": 61, "rms_norm": True}


def of_mamba_ssm(model: Any, folder: Path, **fields: Any) -> Path:
    """A model of transformers in the layout of mamba_ssm."""
    folder.mkdir()
    own = {"tie_embeddings": model.config.tie_word_embeddings, **fields}
    (folder / "config.json").write_text(json.dumps(MAMBA_SSM | own))
    state = {
        name.replace("backbone.embeddings.", "backbone.embedding."): tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


M2 = {"layer": "Mamba2", "ngroups": 2, "dt_limit": [0.001, 0.09]}


@pytest.mark.parametrize("binary", [True, False])
def test_mamba_ssm_in_shards(
    tiny_model: Callable[[str], Any], tmp_path: Path, binary: bool
) -> None:
    original = tiny_model("mamba2")
    folder = of_mamba_ssm(original, tmp_path / "m", ssm_cfg=M2)
    if binary:
        own = load_file(folder / "model.safetensors")
        names = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(sorted(own))}
        for file in set(names.values()):
            torch.save({n: own[n] for n in names if names[n] == file}, folder / file)
        (folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": names}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        in_shards(folder, 3)
    assert torch.allclose(logits(load_any_model(folder).model), logits(original), atol=1e-5)
    loaded, result = forced_repair(folder, tmp_path / "repaired")
    assert torch.allclose(
        logits(load_any_model(tmp_path / "repaired").model), logits(loaded.model), atol=1e-6
    )
    assert len(result.replaced) == 2


@pytest.mark.parametrize(
    ("family", "ssm_cfg"),
    [
        ("mamba", {"d_state": 4, "d_conv": 4, "expand": 2, "dt_rank": "auto", "dt_min": 0.01}),
        ("mamba", {"layer": "Mamba1", "conv_bias": True, "bias": False, "use_fast_path": True}),
        ("mamba2", {**M2, "headdim": 8, "d_state": 8, "chunk_size": 64, "A_init_range": [1, 2]}),
        ("mamba2", {**M2, "norm_before_gate": False, "rmsnorm": True, "D_has_hdim": False}),
    ],
)
def test_mamba_ssm_settings_that_are_used(
    tiny_model: Callable[[str], Any], tmp_path: Path, family: str, ssm_cfg: dict[str, Any]
) -> None:
    folder = of_mamba_ssm(tiny_model(family), tmp_path / "m", ssm_cfg=ssm_cfg)
    found = logits(load_any_model(folder).model)
    assert torch.allclose(found, logits(tiny_model(family)), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "fields", "words"),
    [
        ("mamba2", {"ssm_cfg": {**M2, "norm_before_gate": True}}, r"ssm_cfg\.norm_before_gate"),
        ("mamba2", {"ssm_cfg": {**M2, "rmsnorm": False}}, r"ssm_cfg\.rmsnorm is false"),
        ("mamba2", {"ssm_cfg": {**M2, "D_has_hdim": True}}, r"ssm_cfg\.D_has_hdim"),
        ("mamba2", {"ssm_cfg": {**M2, "d_ssm": 32}}, r"ssm_cfg\.d_ssm"),
        ("mamba2", {"ssm_cfg": {**M2, "headdim": 16}}, r"ssm_cfg\.headdim is 16, and.*8"),
        ("mamba2", {"ssm_cfg": {**M2, "layer": "Mamba3"}}, "'Mamba3'"),
        ("mamba2", {"ssm_cfg": {**M2, "dt_rank": 2}}, r"no setting ssm_cfg\.dt_rank"),
        ("mamba2", {"ssm_cfg": {"layer": "Mamba2"}}, "states neither ngroups nor d_state"),
        ("mamba2", {"ssm_cfg": M2, "vocab_size": 50277}, "vocab_size is 50277, .* of 61 tokens"),
        ("mamba2", {"ssm_cfg": M2, "vocab_size": 60}, "vocab_size is 60, filled up to a mul"),
        ("mamba", {"ssm_cfg": {"d_state": 16}}, r"ssm_cfg\.d_state is 16, and.*4"),
        ("mamba", {"ssm_cfg": {"bidirectional": True}}, r"no setting ssm_cfg\.bidirectional"),
        ("mamba", {"ssm_cfg": {}, "reverse": 1}, "unknown in config.json: the setting reverse"),
    ],
)
def test_mamba_ssm_settings_that_cannot_be_used(
    tiny_model: Callable[[str], Any],
    tmp_path: Path,
    family: str,
    fields: dict[str, Any],
    words: str,
) -> None:
    folder = of_mamba_ssm(tiny_model(family), tmp_path / "m", **fields)
    with pytest.raises(InputError, match=words):
        load_any_model(folder)


def test_mamba_ssm_with_a_head_of_its_own(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    folder = of_mamba_ssm(tiny_model("mamba"), tmp_path / "m", tie_embeddings=True)
    tensors(folder, lambda own: own["lm_head.weight"].mul_(2))
    with pytest.raises(InputError, match=r"share lm_head\.weight"):
        load_any_model(folder)


def test_float32_weights_of_a_bfloat16_model_stay_exact(
    tiny_model: Callable[[str], Any], saved: Callable[[str], Path]
) -> None:
    """One type for the whole model would round A_log to bfloat16 before it is read."""
    folder = saved("mamba2")
    exact = load_file(folder / "model.safetensors")["backbone.layers.0.mixer.A_log"]
    tensors(
        folder,
        lambda own: own.update({n: x.bfloat16() for n, x in own.items() if "A_log" not in n}),
    )
    settings(folder, dtype="bfloat16")
    model = load_any_model(folder).model
    assert torch.equal(model.backbone.layers[0].mixer.A_log, exact)
