"""A tiny random model of every family in transformers that has states which decay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from keelback.errors import InputError

VOCAB = 61
_SIZE: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32}
_HEADS: dict[str, Any] = {
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_MAMBA2_HEADS: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
_DELTA_HEADS: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _class(name: str) -> Any:
    """A class of transformers.

    Raises:
        InputError: the release is too old, or too new, to have it.
    """
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        raise InputError(f"transformers {transformers.__version__} has no {name}")
    return found


def _causal_lm(name: str, config: str | None = None, **fields: Any) -> nn.Module:
    made = _class(config or f"{name}Config")(**_SIZE, **fields)
    return _class(f"{name}ForCausalLM")(made)


def _glm5_next(**fields: Any) -> nn.Module:
    """A language model that comes with a tower for images, here as small as can be."""
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 16,
        "out_hidden_size": 32,
        "projection_intermediate_size": 16,
        "image_size": 28,
    }
    marks = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    config = _class("Glm5NextConfig")(
        text_config={**_SIZE, **fields},
        vision_config=vision,
        **{f"{mark}_token_id": VOCAB - 1 - i for i, mark in enumerate(marks)},
    )
    return _class("Glm5NextForConditionalGeneration")(config)


def _qwen35_vision() -> nn.Module:
    """A vision-language model whose language model has gated delta nets."""
    text = {
        **_SIZE,
        "num_hidden_layers": 4,
        "head_dim": 8,
        **_HEADS,
        **_DELTA_HEADS,
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 16,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }
    marks = ("image", "video", "vision_start", "vision_end")
    config = _class("Qwen3_5Config")(
        text_config=text,
        vision_config=vision,
        **{f"{mark}_token_id": VOCAB - 1 - i for i, mark in enumerate(marks)},
    )
    return _class("Qwen3_5ForConditionalGeneration")(config)


def _minicpm_v46() -> nn.Module:
    """A vision-language model around the language model of Qwen3.5."""
    text = {**_SIZE, "num_hidden_layers": 4, "head_dim": 8, **_HEADS, **_DELTA_HEADS}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "insert_layer_id": 0,
    }
    config = _class("MiniCPMV4_6Config")(
        text_config={"model_type": "qwen3_5_text", **text},
        vision_config=vision,
        insert_layer_id=0,
        image_token_id=VOCAB - 1,
        video_token_id=VOCAB - 2,
    )
    return _class("MiniCPMV4_6ForConditionalGeneration")(config)


def _nemotron_h_omni() -> nn.Module:
    """A model for text, images and sound around NemotronH, here without ears."""
    text = {
        **_SIZE,
        "layers_block_type": ["mamba", "attention", "mamba"],
        "head_dim": 8,
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "chunk_size": 16,
        **_HEADS,
    }
    vision = {
        "hidden_size": 16,
        "mlp_ratio": 1.0,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "max_img_size": 56,
        "video_temporal_patch_size": 2,
    }
    config = _class("NemotronH_Omni_Reasoning_V3_Config")(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        vision_hidden_size=16,
        projector_hidden_size=16,
        image_token_id=VOCAB - 1,
        video_token_id=VOCAB - 2,
        audio_token_id=VOCAB - 3,
    )
    return _class("NemotronH_Omni_Reasoning_V3")(config)


COMPOSITES: dict[str, Callable[[], nn.Module]] = {
    "qwen3.5-vision": _qwen35_vision,
    "minicpm-v4.6": _minicpm_v46,
    "nemotron-h-omni": _nemotron_h_omni,
}
"""Models whose language model is a part."""


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "mamba": lambda: _causal_lm("Mamba", num_hidden_layers=2, state_size=4),
    "falcon-mamba": lambda: _causal_lm("FalconMamba", num_hidden_layers=2, state_size=4),
    "jamba": lambda: _causal_lm(
        "Jamba",
        num_hidden_layers=4,
        num_experts=2,
        attn_layer_period=4,
        attn_layer_offset=2,
        mamba_d_state=4,
        **_HEADS,
    ),
    "zamba": lambda: _causal_lm(
        "Zamba",
        num_hidden_layers=4,
        n_mamba_heads=2,
        mamba_d_state=4,
        layers_block_type=["mamba", "hybrid"] * 2,
        **{**_HEADS, "num_key_value_heads": 4},
    ),
    "mamba2": lambda: _causal_lm(
        "Mamba2",
        num_hidden_layers=2,
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=16,
        time_step_limit=(0.001, 0.09),
    ),
    "bamba": lambda: _causal_lm(
        "Bamba",
        num_hidden_layers=3,
        attn_layer_indices=[1],
        mamba_n_groups=2,
        **_HEADS,
        **_MAMBA2_HEADS,
    ),
    "zamba2": lambda: _causal_lm(
        "Zamba2",
        num_hidden_layers=2,
        layers_block_type=["mamba", "hybrid"],
        n_mamba_heads=8,
        mamba_d_state=8,
        mamba_headdim=8,
        chunk_size=16,
        **{**_HEADS, "num_key_value_heads": 4},
    ),
    "nemotron-h": lambda: _causal_lm(
        "NemotronH",
        layers_block_type=["mamba", "attention", "mamba"],
        head_dim=8,
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=2,
        chunk_size=16,
        **_HEADS,
    ),
    "falcon-h1": lambda: _causal_lm(
        "FalconH1",
        num_hidden_layers=2,
        mamba_d_ssm=64,
        ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7],
        ssm_in_multiplier=1.3,
        **_HEADS,
        **_MAMBA2_HEADS,
    ),
    "granite-moe-hybrid": lambda: _causal_lm(
        "GraniteMoeHybrid",
        num_hidden_layers=3,
        layer_types=["mamba", "attention", "mamba"],
        num_local_experts=2,
        shared_intermediate_size=48,
        logits_scaling=3.0,
        **_HEADS,
        **_MAMBA2_HEADS,
    ),
    "qwen3-next": lambda: _causal_lm(
        "Qwen3Next",
        num_hidden_layers=4,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        **_HEADS,
        **_DELTA_HEADS,
        **_EXPERTS,
    ),
    "qwen3.5": lambda: _causal_lm(
        "Qwen3_5", "Qwen3_5TextConfig", num_hidden_layers=4, head_dim=8, **_HEADS, **_DELTA_HEADS
    ),
    "olmo-hybrid": lambda: _causal_lm(
        "OlmoHybrid",
        num_hidden_layers=4,
        **{**_HEADS, "num_key_value_heads": 4},
        **_DELTA_HEADS,
        **_SPECIAL,
    ),
    "kimi-linear": lambda: _causal_lm(
        "KimiLinear",
        num_hidden_layers=4,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        num_local_experts=4,
        linear_head_dim=8,
        linear_num_heads=4,
        **{**_HEADS, "num_key_value_heads": 4},
        **_EXPERTS,
        **_SPECIAL,
    ),
    "bailing-hybrid": lambda: _causal_lm(
        "BailingHybrid",
        num_hidden_layers=4,
        head_dim=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        layer_group_size=4,
        first_k_dense_replace=1,
        num_local_experts=4,
        n_group=1,
        topk_group=1,
        **{**_HEADS, "num_key_value_heads": 4},
        **_EXPERTS,
        **_SPECIAL,
    ),
    "qwen4-exp": lambda: _causal_lm(
        "Qwen4Exp",
        "Qwen4ExpTextConfig",
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        hc_count=2,
        hc_lowrank=4,
        ngram_vocab_size_base=64,
        make_ngram_vocab_size_divisible_by=1,
        split_ngram_parts=1,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=64,
        indexer_compress_ratio=4,
        **_DELTA_HEADS,
        **_EXPERTS,
        **_SPECIAL,
    ),
    "glm5-next": lambda: _glm5_next(
        num_hidden_layers=4,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        linear_head_dim=8,
        linear_num_heads=4,
        hc_mult=2,
        n_routed_experts=4,
        index_topk=16,
        index_head_dim=8,
        index_n_heads=2,
        index_kpool=4,
        **{**_HEADS, "num_key_value_heads": 4},
        **_EXPERTS,
        **_SPECIAL,
    ),
    "qwen3.5-moe": lambda: _causal_lm(
        "Qwen3_5Moe",
        "Qwen3_5MoeTextConfig",
        num_hidden_layers=4,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        **_DELTA_HEADS,
        **_EXPERTS,
    ),
    "lara-mini": lambda: _causal_lm(
        "LaraMini",
        num_hidden_layers=4,
        layer_types=["linear_attention", "sliding_attention"] * 2,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        **_DELTA_HEADS,
        **_EXPERTS,
        **_SPECIAL,
    ),
}


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "recurrent-gemma": lambda: _causal_lm(
        "RecurrentGemma",
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=64,
        **{**_HEADS, "num_key_value_heads": 4},
    ),
    "minimax": lambda: _causal_lm(
        "MiniMax",
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        block_size=16,
        num_local_experts=2,
        head_dim=8,
        **_HEADS,
    ),
}
"""Linear recurrences that are no Mamba and erase nothing."""


NOT_READ: dict[str, Callable[[], nn.Module]] = {
    "rwkv": lambda: _causal_lm("Rwkv", num_hidden_layers=2, attention_hidden_size=32),
    "xlstm": lambda: _causal_lm("xLSTM", num_hidden_layers=2, num_heads=4),
}
"""Linear recurrences of other forms, for which there is no adapter: an audit says so."""


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "nemotron-h-experts": lambda: _causal_lm(
        "NemotronH",
        layers_block_type=["mamba", "moe", "mamba"],
        head_dim=8,
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=2,
        chunk_size=16,
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=16,
        **_HEADS,
        **_EXPERTS,
    ),
}
"""Families with options that change what a checkpoint holds."""


def build(family: str) -> nn.Module:
    """The tiny model of a family, each parameter moved so that no norm or bias is trivial.

    Raises:
        InputError: this release of transformers does not have it.
    """
    torch.manual_seed(0)
    model = {**FAMILIES, **LINEAR, **COMPOSITES, **VARIANTS, **NOT_READ}[family]()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()
