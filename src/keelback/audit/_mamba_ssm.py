"""Checkpoints in the layout of the mamba_ssm package, as the models of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keelback.errors import InputError

_MIXER = "backbone.layers.0.mixer."
_END_OF_TEXT = 0
"""In GPT-NeoX's tokenizer, which the published mamba_ssm checkpoints use."""


def is_mamba_ssm(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` has mamba_ssm's fields rather than those of transformers."""
    return "model_type" not in config and {"d_model", "n_layer"} <= config.keys()


def from_mamba_ssm(config: Mapping[str, Any], state: dict[str, Tensor], folder: Path) -> nn.Module:
    """A `MambaForCausalLM` or `Mamba2ForCausalLM` with the weights of a mamba_ssm checkpoint.

    Sizes are read off the tensors, so that a configuration may leave them to its defaults.

    Raises:
        InputError: attention or MLP layers in between, LayerNorm in place of RMSNorm, or tensors
            of another architecture.
    """
    _refuse_what_transformers_lacks(config, folder)
    state = {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in state.items()}
    try:
        shapes = {k.removeprefix(_MIXER): v.shape for k, v in state.items() if k.startswith(_MIXER)}
        vocab_size = state["backbone.embeddings.weight"].shape[0]
        with torch.device("meta"):
            model = _build(config, shapes, vocab_size)
    except KeyError as error:
        raise InputError(f"{folder} has no tensor {error} of a mamba_ssm model") from None
    state.setdefault("lm_head.weight", state["backbone.embeddings.weight"])
    expected = model.state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | state.keys()
        if name not in state or name not in expected or state[name].shape != expected[name].shape
    )
    if wrong:
        raise InputError(
            f"{folder} is not a whole mamba_ssm checkpoint: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, the first {wrong[0]}"
        )
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval()


def _refuse_what_transformers_lacks(config: Mapping[str, Any], folder: Path) -> None:
    for wrong, what in (
        (config.get("attn_layer_idx"), "attention layers"),
        (config.get("d_intermediate"), "MLP layers"),
        (not config.get("rms_norm", True), "LayerNorm in place of RMSNorm"),
    ):
        if wrong:
            raise InputError(
                f"{folder} is a mamba_ssm checkpoint with {what}, which transformers' Mamba has "
                "not; convert it to a transformers folder first"
            )


def _build(config: Mapping[str, Any], shapes: Mapping[str, Any], vocab_size: int) -> Any:
    import transformers

    ssm_cfg = config.get("ssm_cfg") or {}
    inner = shapes["out_proj.weight"][1]
    common = {
        "vocab_size": vocab_size,
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layer"],
        "expand": inner // config["d_model"],
        "conv_kernel": shapes["conv1d.weight"][-1],
        "use_conv_bias": "conv1d.bias" in shapes,
        "use_bias": "in_proj.bias" in shapes,
        "residual_in_fp32": config.get("residual_in_fp32", True),
        "tie_word_embeddings": config.get("tie_embeddings", True),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), _END_OF_TEXT),
    }
    if len(shapes["A_log"]) == 2:
        return transformers.MambaForCausalLM(
            transformers.MambaConfig(
                **common,
                state_size=shapes["A_log"][1],
                time_step_rank=shapes["dt_proj.weight"][1],
            )
        )
    groups, heads = ssm_cfg.get("ngroups", 1), shapes["A_log"][0]
    return transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(
            **common,
            state_size=(shapes["conv1d.weight"][0] - inner) // (2 * groups),
            num_heads=heads,
            head_dim=inner // heads,
            n_groups=groups,
            chunk_size=ssm_cfg.get("chunk_size", 256),
            time_step_limit=tuple(ssm_cfg.get("dt_limit", (0.0, float("inf")))),
        )
    )
