"""A random model of every family in transformers that has states which decay, tiny or larger."""

from collections.abc import Callable

import torch
from torch import nn

from keelback.benchmarks.composite_families import COMPOSITES, glm5_next, qwen4_exp
from keelback.benchmarks.family_sizes import SPECIAL, TINY, VOCAB, Size, causal_lm

FAMILIES: dict[str, Callable[[Size], nn.Module]] = {
    "mamba": lambda size: causal_lm("Mamba", size, num_hidden_layers=2, state_size=size.state),
    "falcon-mamba": lambda size: causal_lm(
        "FalconMamba", size, num_hidden_layers=2, state_size=size.state
    ),
    "jamba": lambda size: causal_lm(
        "Jamba",
        size,
        num_hidden_layers=4,
        num_experts=2,
        attn_layer_period=4,
        attn_layer_offset=2,
        mamba_d_state=size.state,
        **size.attention,
    ),
    "zamba": lambda size: causal_lm(
        "Zamba",
        size,
        num_hidden_layers=4,
        n_mamba_heads=2,
        mamba_d_state=size.state,
        layers_block_type=["mamba", "hybrid"] * 2,
        **size.own_keys,
    ),
    "mamba2": lambda size: causal_lm(
        "Mamba2",
        size,
        num_hidden_layers=2,
        state_size=size.scan_state,
        num_heads=size.scan_heads,
        head_dim=size.scan_head,
        n_groups=2,
        chunk_size=size.chunk,
        time_step_limit=(0.001, 0.09),
    ),
    "bamba": lambda size: causal_lm(
        "Bamba",
        size,
        num_hidden_layers=3,
        attn_layer_indices=[1],
        mamba_n_groups=2,
        **size.attention,
        **size.mamba2,
    ),
    "zamba2": lambda size: causal_lm(
        "Zamba2",
        size,
        num_hidden_layers=2,
        layers_block_type=["mamba", "hybrid"],
        n_mamba_heads=size.scan_heads,
        mamba_d_state=size.scan_state,
        mamba_headdim=size.scan_head,
        chunk_size=size.chunk,
        **size.own_keys,
    ),
    "nemotron-h": lambda size: causal_lm(
        "NemotronH",
        size,
        layers_block_type=["mamba", "attention", "mamba"],
        **size.nemotron,
    ),
    "falcon-h1": lambda size: causal_lm(
        "FalconH1",
        size,
        num_hidden_layers=2,
        mamba_d_ssm=2 * size.d_model,
        ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7],
        ssm_in_multiplier=1.3,
        **size.attention,
        **size.mamba2,
    ),
    "granite-moe-hybrid": lambda size: causal_lm(
        "GraniteMoeHybrid",
        size,
        num_hidden_layers=3,
        layer_types=["mamba", "attention", "mamba"],
        num_local_experts=2,
        shared_intermediate_size=size.intermediate,
        logits_scaling=3.0,
        **size.attention,
        **size.mamba2,
    ),
    "qwen3-next": lambda size: causal_lm(
        "Qwen3Next",
        size,
        num_hidden_layers=4,
        head_dim=size.head_dim,
        **size.shared_expert,
        **size.attention,
        **size.delta,
    ),
    "qwen3.5": lambda size: causal_lm(
        "Qwen3_5",
        size,
        "Qwen3_5TextConfig",
        num_hidden_layers=4,
        head_dim=size.head_dim,
        **size.attention,
        **size.delta,
    ),
    "olmo-hybrid": lambda size: causal_lm(
        "OlmoHybrid",
        size,
        num_hidden_layers=4,
        **size.own_keys,
        **size.delta,
        **SPECIAL,
    ),
    "kimi-linear": lambda size: causal_lm(
        "KimiLinear",
        size,
        num_hidden_layers=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"],  # Its cache counts by these.
        qk_rope_head_dim=size.head_dim,
        num_local_experts=4,
        **size.kimi_delta,
        **size.latent,
        **size.experts,
        **SPECIAL,
    ),
    "bailing-hybrid": lambda size: causal_lm(
        "BailingHybrid",
        size,
        num_hidden_layers=4,
        head_dim=size.head_dim,
        qk_rope_head_dim=size.head_dim,
        layer_group_size=4,
        first_k_dense_replace=1,
        num_local_experts=4,
        n_group=1,
        topk_group=1,
        **size.latent,
        **size.experts,
        **SPECIAL,
    ),
    "qwen4-exp": lambda size: causal_lm(
        "Qwen4Exp",
        size,
        "Qwen4ExpTextConfig",
        num_hidden_layers=4,
        head_dim=size.head_dim,
        **qwen4_exp(size),
        **size.delta,
    ),
    "glm5-next": lambda size: glm5_next(
        size,
        num_hidden_layers=4,
        q_lora_rank=size.low_rank,
        **size.kimi_delta,
        hc_mult=2,
        n_routed_experts=4,
        index_topk=16,
        index_head_dim=size.head_dim,
        index_n_heads=2,
        index_kpool=4,
        **size.latent,
        **size.experts,
        **SPECIAL,
    ),
    "qwen3.5-moe": lambda size: causal_lm(
        "Qwen3_5Moe",
        size,
        "Qwen3_5MoeTextConfig",
        num_hidden_layers=4,
        head_dim=size.head_dim,
        **size.shared_expert,
        **size.grouped,
        **size.delta,
    ),
    "lara-mini": lambda size: causal_lm(
        "LaraMini",
        size,
        num_hidden_layers=4,
        layer_types=["linear_attention", "sliding_attention"] * 2,
        head_dim=size.head_dim,
        **size.shared_expert,
        **size.grouped,
        **size.delta,
        **SPECIAL,
    ),
}


LINEAR: dict[str, Callable[[Size], nn.Module]] = {
    "recurrent-gemma": lambda size: causal_lm(
        "RecurrentGemma",
        size,
        num_hidden_layers=3,
        lru_width=size.d_model,
        attention_window_size=size.window,
        **size.own_keys,
    ),
    "minimax": lambda size: causal_lm(
        "MiniMax",
        size,
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        block_size=size.chunk,
        num_local_experts=2,
        head_dim=size.head_dim,
        **size.attention,
    ),
}
"""Linear recurrences that are no Mamba and erase nothing."""


NORMALISED: dict[str, Callable[[Size], nn.Module]] = {
    "rwkv": lambda size: causal_lm(
        "Rwkv", size, num_hidden_layers=2, attention_hidden_size=size.d_model
    ),
    "xlstm": lambda size: causal_lm("xLSTM", size, num_hidden_layers=2, num_heads=size.heads),
}
"""Linear recurrences that divide what they remember by a sum of its weights."""


NOT_RECURRENT: dict[str, Callable[[Size], nn.Module]] = {
    "zaya": lambda size: causal_lm(
        "Zaya",
        size,
        num_hidden_layers=2,
        **size.grouped,
        head_dim=size.head_dim,
        num_experts=4,
        moe_intermediate_size=size.expert,
        router_hidden_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}
"""Has a state in its cache that is the last token's value alone: nothing decays there."""


VARIANTS: dict[str, Callable[[Size], nn.Module]] = {
    "nemotron-h-experts": lambda size: causal_lm(
        "NemotronH",
        size,
        layers_block_type=["mamba", "moe", "mamba"],
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=size.expert,
        **size.nemotron,
        **size.experts,
    ),
}
"""Families with options that change what a checkpoint holds."""


EVERY: dict[str, Callable[[Size], nn.Module]] = {
    **FAMILIES,
    **LINEAR,
    **NORMALISED,
    **VARIANTS,
    **COMPOSITES,
    **NOT_RECURRENT,
}
"""All of them, in the order of the table."""


def build(family: str, size: Size = TINY) -> nn.Module:
    """The model of a family, each parameter moved so that no norm or bias is trivial.

    Raises:
        InputError: this release of transformers does not have it.
    """
    torch.manual_seed(0)
    model = EVERY[family](size)
    generator = torch.Generator().manual_seed(7)
    moved = 0.1 * (TINY.d_model / size.d_model) ** 0.5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=moved)
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
