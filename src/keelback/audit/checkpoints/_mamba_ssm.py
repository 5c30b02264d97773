"""Checkpoints in the layout of the mamba_ssm package, as the models of transformers.

Those with Mamba-3 layers, which transformers does not have, as a model of keelback's own.

A setting of `config.json` is either what the model is built by, or checked against the tensors, or
one that only matters before training, or refused by its name: none is passed over.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keelback.audit.checkpoints._files import WeightFiles
from keelback.audit.checkpoints._mamba3 import build_mamba3, sizes_of
from keelback.errors import InputError

_MIXER = "backbone.layers.0.mixer."
_END_OF_TEXT = 0
"""In GPT-NeoX's tokenizer, which the published mamba_ssm checkpoints use."""

_BEFORE_TRAINING = frozenset(
    ["dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init"]
)
"""Settings that only say how weights are drawn before training."""

_OF_SPEED = frozenset(
    [
        *("use_fast_path", "use_mem_eff_path", "fused_add_norm", "chunk_size"),
        "fuse_pregate_headwise_norm",
    ]
)
"""Settings that say how the same numbers are computed."""

_ONLY: dict[str, tuple[Any, str]] = {
    "attn_layer_idx": (None, "attention layers"),
    "attn_cfg": (None, "attention layers"),
    "d_intermediate": (0, "MLP layers"),
    "rms_norm": (True, "LayerNorm in place of RMSNorm"),
    "norm_before_gate": (False, "the norm before the gate (ssm_cfg.norm_before_gate)"),
    "rmsnorm": (True, "no norm after the scan (ssm_cfg.rmsnorm is false)"),
    "D_has_hdim": (False, "one D per channel (ssm_cfg.D_has_hdim)"),
    "d_ssm": (None, "a scan over a part of the channels (ssm_cfg.d_ssm)"),
    "process_group": (None, "tensor parallelism (ssm_cfg.process_group)"),
}
"""Settings that have one value here, as in transformers' Mamba, and what another would mean."""

_STATES = 128
"""Default of ssm_cfg.d_state in a Mamba-2 layer."""

_LAYERS = ("Mamba1", "Mamba2", "Mamba3")


def is_mamba_ssm(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` has mamba_ssm's fields rather than those of transformers."""
    return "model_type" not in config and {"d_model", "n_layer"} <= config.keys()


def from_mamba_ssm(
    config: Mapping[str, Any], weights: WeightFiles
) -> tuple[nn.Module, dict[str, str]]:
    """A model of transformers, or of Mamba-3, with the weights of a mamba_ssm checkpoint.

    Sizes are read off the tensors, so that a configuration may leave them to its defaults; those
    that it states must be the same.

    Returns:
        The model, and the stored name of each of its parameters.

    Raises:
        InputError: a setting that asks for something that these models do not have, that nothing
            here knows, or that contradicts the tensors; or tensors of another architecture.
    """
    folder = weights.folder
    names = {_renamed(stored): stored for stored in weights.tensors}
    shapes = {
        name.removeprefix(_MIXER): weights.tensors[stored].shape
        for name, stored in names.items()
        if name.startswith(_MIXER)
    }
    _refuse_what_is_lacking(config, folder)
    try:
        vocab_size = weights.tensors[names["backbone.embeddings.weight"]].shape[0]
        built = _sizes(config, shapes, folder)
        with torch.device("meta"):
            model = _build(config, built, shapes, vocab_size, folder)
    except KeyError as error:
        raise InputError(f"{folder} has no tensor {error} of a mamba_ssm model") from None
    _refuse_contradictions(config, {**built, "vocab_size": vocab_size}, folder)
    _refuse_open_groups(config, built, folder)
    expected = model.state_dict()
    tied = config.get("tie_embeddings", True)
    if tied:
        names.setdefault("lm_head.weight", names["backbone.embeddings.weight"])
    wrong = sorted(_wrong(expected, names, weights))
    if wrong:
        raise InputError(
            f"{folder} is not a whole mamba_ssm checkpoint: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, the first {wrong[0]}"
        )
    state = {name: weights.tensors[stored].read() for name, stored in names.items()}
    head, embeddings = state["lm_head.weight"], state["backbone.embeddings.weight"]
    if tied and not torch.equal(head, embeddings):
        raise InputError(
            f"{folder} is configured to share lm_head.weight with its embeddings (tie_embeddings), "
            "and its files hold different values for the two"
        )
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval(), names


def _renamed(stored: str) -> str:
    return stored.replace("backbone.embedding.", "backbone.embeddings.")


def _wrong(
    expected: Mapping[str, Tensor], names: Mapping[str, str], weights: WeightFiles
) -> Iterator[str]:
    for name in expected.keys() | names.keys():
        there = name in names and name in expected
        if not there or weights.tensors[names[name]].shape != tuple(expected[name].shape):
            yield name


def _refuse_what_is_lacking(config: Mapping[str, Any], folder: Path) -> None:
    ssm_cfg = config.get("ssm_cfg") or {}
    layer = ssm_cfg.get("layer", _LAYERS[0])
    if layer not in _LAYERS:
        raise InputError(
            f"{folder} has layers of the kind {layer!r} (ssm_cfg.layer); those that can be read "
            f"are {', '.join(_LAYERS)}"
        )
    by_transformers = layer in _LAYERS[:2]
    for name, value in {**config, **ssm_cfg}.items():
        only, what = _ONLY.get(name, (value, ""))
        if value != only and not (only is None and not value):
            why_not = (
                "which transformers' Mamba does not have; convert it to a transformers folder of "
                "a model that has it"
                if by_transformers
                else "which keelback's Mamba-3 does not have; audit the model from Python"
            )
            raise InputError(f"{folder} is a mamba_ssm checkpoint with {what}, {why_not}")


def _sizes(config: Mapping[str, Any], shapes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the tensors say of the settings that a configuration may state."""
    if "B_bias" in shapes:
        return sizes_of(shapes, config["d_model"], folder)
    inner, d_model = shapes["out_proj.weight"][1], config["d_model"]
    groups = (config.get("ssm_cfg") or {}).get("ngroups", 1)
    one_rate_per_head = len(shapes["A_log"]) == 1
    sizes: dict[str, Any] = {
        "expand": inner / d_model,
        "d_conv": shapes["conv1d.weight"][-1],
        "conv_bias": "conv1d.bias" in shapes,
        "bias": "in_proj.bias" in shapes,
    }
    if one_rate_per_head:
        return {
            **sizes,
            "layer": "Mamba2",
            "d_state": (shapes["conv1d.weight"][0] - inner) // (2 * groups),
            "headdim": inner // shapes["A_log"][0],
            "ngroups": groups,
            "dt_limit": None,
        }
    return {
        **sizes,
        "layer": "Mamba1",
        "d_state": shapes["A_log"][1],
        "dt_rank": shapes["dt_proj.weight"][1],
    }


def _refuse_contradictions(
    config: Mapping[str, Any], built: Mapping[str, Any], folder: Path
) -> None:
    """Each setting must be known, and what the tensors say of it."""
    used = {"d_model", "n_layer", "ssm_cfg", "residual_in_fp32", "tie_embeddings"}
    passed = _BEFORE_TRAINING | _OF_SPEED | _ONLY.keys()
    for name in config:
        if name not in used | passed | {"vocab_size", "pad_vocab_size_multiple"}:
            raise InputError(f"{folder}: unknown in config.json: the setting {name}")
    rows, stated = built["vocab_size"], config.get("vocab_size")
    multiple = config.get("pad_vocab_size_multiple", 8)
    if stated is not None and rows not in (stated, -(-stated // multiple) * multiple):
        raise InputError(
            f"{folder}: vocab_size is {stated}, filled up to a multiple of {multiple}, and the "
            f"embeddings are of {rows} tokens"
        )
    for name, value in (config.get("ssm_cfg") or {}).items():
        if name in passed or (name == "dt_rank" and value == "auto"):
            continue
        if name not in built:
            raise InputError(
                f"{folder}: a {built['layer']} layer of mamba_ssm has no setting ssm_cfg.{name} "
                "that could be read"
            )
        if built[name] is not None and value != built[name]:
            raise InputError(
                f"{folder}: ssm_cfg.{name} is {value!r}, and the tensors are of a model where it "
                f"is {built[name]!r}"
            )


def _refuse_open_groups(config: Mapping[str, Any], built: Mapping[str, Any], folder: Path) -> None:
    """The tensors of Mamba-2 hold the product of groups and states: one of the two must be stated.

    Where neither is, both have mamba_ssm's defaults, one group of 128 states.
    """
    ssm_cfg = config.get("ssm_cfg") or {}
    open_sizes = built["layer"] == "Mamba2" and not {"ngroups", "d_state"} & ssm_cfg.keys()
    if open_sizes and built["d_state"] != _STATES:
        raise InputError(
            f"{folder}: ssm_cfg states neither ngroups nor d_state, and its tensors are not of "
            f"mamba_ssm's defaults, 1 group of {_STATES} states, but of {built['d_state']} states "
            "in groups of any size; state one of them"
        )


def _build(
    config: Mapping[str, Any],
    sizes: Mapping[str, Any],
    shapes: Mapping[str, Any],
    vocab_size: int,
    folder: Path,
) -> Any:
    if sizes["layer"] == "Mamba3":
        return build_mamba3(config, sizes, vocab_size, folder)
    import transformers

    ssm_cfg = config.get("ssm_cfg") or {}
    common = {
        "vocab_size": vocab_size,
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layer"],
        "expand": sizes["expand"] if sizes["expand"] % 1 else int(sizes["expand"]),
        "conv_kernel": sizes["d_conv"],
        "use_conv_bias": sizes["conv_bias"],
        "use_bias": sizes["bias"],
        "residual_in_fp32": config.get("residual_in_fp32", True),
        "tie_word_embeddings": config.get("tie_embeddings", True),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), _END_OF_TEXT),
    }
    if sizes["layer"] == "Mamba1":
        return transformers.MambaForCausalLM(
            transformers.MambaConfig(
                **common, state_size=sizes["d_state"], time_step_rank=sizes["dt_rank"]
            )
        )
    return transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(
            **common,
            state_size=sizes["d_state"],
            num_heads=shapes["A_log"][0],
            head_dim=sizes["headdim"],
            n_groups=sizes["ngroups"],
            chunk_size=ssm_cfg.get("chunk_size", 256),
            time_step_limit=tuple(ssm_cfg.get("dt_limit", (0.0, float("inf")))),
        )
    )
