"""A tiny random model of every family in transformers that has states which decay."""

from collections.abc import Callable

import torch
from torch import nn

from keelback.benchmarks.composite_families import COMPOSITES, QWEN4_EXP, glm5_next
from keelback.benchmarks.tiny_sizes import (
    DELTA_HEADS,
    EXPERTS,
    HEADS,
    MAMBA2_HEADS,
    SPECIAL,
    VOCAB,
    causal_lm,
)

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "mamba": lambda: causal_lm("Mamba", num_hidden_layers=2, state_size=4),
    "falcon-mamba": lambda: causal_lm("FalconMamba", num_hidden_layers=2, state_size=4),
    "jamba": lambda: causal_lm(
        "Jamba",
        num_hidden_layers=4,
        num_experts=2,
        attn_layer_period=4,
        attn_layer_offset=2,
        mamba_d_state=4,
        **HEADS,
    ),
    "zamba": lambda: causal_lm(
        "Zamba",
        num_hidden_layers=4,
        n_mamba_heads=2,
        mamba_d_state=4,
        layers_block_type=["mamba", "hybrid"] * 2,
        **{**HEADS, "num_key_value_heads": 4},
    ),
    "mamba2": lambda: causal_lm(
        "Mamba2",
        num_hidden_layers=2,
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=16,
        time_step_limit=(0.001, 0.09),
    ),
    "bamba": lambda: causal_lm(
        "Bamba",
        num_hidden_layers=3,
        attn_layer_indices=[1],
        mamba_n_groups=2,
        **HEADS,
        **MAMBA2_HEADS,
    ),
    "zamba2": lambda: causal_lm(
        "Zamba2",
        num_hidden_layers=2,
        layers_block_type=["mamba", "hybrid"],
        n_mamba_heads=8,
        mamba_d_state=8,
        mamba_headdim=8,
        chunk_size=16,
        **{**HEADS, "num_key_value_heads": 4},
    ),
    "nemotron-h": lambda: causal_lm(
        "NemotronH",
        layers_block_type=["mamba", "attention", "mamba"],
        head_dim=8,
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=2,
        chunk_size=16,
        **HEADS,
    ),
    "falcon-h1": lambda: causal_lm(
        "FalconH1",
        num_hidden_layers=2,
        mamba_d_ssm=64,
        ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7],
        ssm_in_multiplier=1.3,
        **HEADS,
        **MAMBA2_HEADS,
    ),
    "granite-moe-hybrid": lambda: causal_lm(
        "GraniteMoeHybrid",
        num_hidden_layers=3,
        layer_types=["mamba", "attention", "mamba"],
        num_local_experts=2,
        shared_intermediate_size=48,
        logits_scaling=3.0,
        **HEADS,
        **MAMBA2_HEADS,
    ),
    "qwen3-next": lambda: causal_lm(
        "Qwen3Next",
        num_hidden_layers=4,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        **HEADS,
        **DELTA_HEADS,
        **EXPERTS,
    ),
    "qwen3.5": lambda: causal_lm(
        "Qwen3_5", "Qwen3_5TextConfig", num_hidden_layers=4, head_dim=8, **HEADS, **DELTA_HEADS
    ),
    "olmo-hybrid": lambda: causal_lm(
        "OlmoHybrid",
        num_hidden_layers=4,
        **{**HEADS, "num_key_value_heads": 4},
        **DELTA_HEADS,
        **SPECIAL,
    ),
    "kimi-linear": lambda: causal_lm(
        "KimiLinear",
        num_hidden_layers=4,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        num_local_experts=4,
        linear_head_dim=8,
        linear_num_heads=4,
        **{**HEADS, "num_key_value_heads": 4},
        **EXPERTS,
        **SPECIAL,
    ),
    "bailing-hybrid": lambda: causal_lm(
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
        **{**HEADS, "num_key_value_heads": 4},
        **EXPERTS,
        **SPECIAL,
    ),
    "qwen4-exp": lambda: causal_lm(
        "Qwen4Exp",
        "Qwen4ExpTextConfig",
        num_hidden_layers=4,
        head_dim=8,
        **QWEN4_EXP,
        **DELTA_HEADS,
    ),
    "glm5-next": lambda: glm5_next(
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
        **{**HEADS, "num_key_value_heads": 4},
        **EXPERTS,
        **SPECIAL,
    ),
    "qwen3.5-moe": lambda: causal_lm(
        "Qwen3_5Moe",
        "Qwen3_5MoeTextConfig",
        num_hidden_layers=4,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        **DELTA_HEADS,
        **EXPERTS,
    ),
    "lara-mini": lambda: causal_lm(
        "LaraMini",
        num_hidden_layers=4,
        layer_types=["linear_attention", "sliding_attention"] * 2,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        **DELTA_HEADS,
        **EXPERTS,
        **SPECIAL,
    ),
}


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "recurrent-gemma": lambda: causal_lm(
        "RecurrentGemma",
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=64,
        **{**HEADS, "num_key_value_heads": 4},
    ),
    "minimax": lambda: causal_lm(
        "MiniMax",
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        block_size=16,
        num_local_experts=2,
        head_dim=8,
        **HEADS,
    ),
}
"""Linear recurrences that are no Mamba and erase nothing."""


NORMALISED: dict[str, Callable[[], nn.Module]] = {
    "rwkv": lambda: causal_lm("Rwkv", num_hidden_layers=2, attention_hidden_size=32),
    "xlstm": lambda: causal_lm("xLSTM", num_hidden_layers=2, num_heads=4),
}
"""Linear recurrences that divide what they remember by a sum of its weights."""


NOT_RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "zaya": lambda: causal_lm(
        "Zaya",
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        moe_intermediate_size=16,
        router_hidden_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}
"""Has a state in its cache that is the last token's value alone: nothing decays there."""


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "nemotron-h-experts": lambda: causal_lm(
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
        **HEADS,
        **EXPERTS,
    ),
}
"""Families with options that change what a checkpoint holds."""


EVERY: dict[str, Callable[[], nn.Module]] = {
    **FAMILIES,
    **LINEAR,
    **NORMALISED,
    **VARIANTS,
    **COMPOSITES,
    **NOT_RECURRENT,
}
"""All of them, in the order of the table."""


def build(family: str) -> nn.Module:
    """The tiny model of a family, each parameter moved so that no norm or bias is trivial.

    Raises:
        InputError: this release of transformers does not have it.
    """
    torch.manual_seed(0)
    model = EVERY[family]()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


__all__ = [
    "COMPOSITES",
    "EVERY",
    "FAMILIES",
    "LINEAR",
    "NORMALISED",
    "NOT_RECURRENT",
    "VARIANTS",
    "VOCAB",
    "build",
]
