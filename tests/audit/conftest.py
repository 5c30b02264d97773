"""Tiny random models of every family that the adapters know, built from configurations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

VOCAB = 61
SIZE: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32}
HEADS: dict[str, Any] = {
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MAMBA2_HEADS: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
DELTA_HEADS: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


COMPLETE = (5, 24)
"""The first release of transformers that has every family of the tests."""


def from_transformers(name: str) -> Any:
    """A class of transformers; the test is skipped where the release is too old to have it."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if release < COMPLETE and not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(transformers, name)


def causal_lm(name: str, config: str | None = None, **fields: Any) -> nn.Module:
    made = from_transformers(config or f"{name}Config")(**SIZE, **fields)
    return from_transformers(f"{name}ForCausalLM")(made)


def glm5_next(**fields: Any) -> nn.Module:
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
    config = from_transformers("Glm5NextConfig")(
        text_config={**SIZE, **fields},
        vision_config=vision,
        **{f"{mark}_token_id": VOCAB - 1 - i for i, mark in enumerate(marks)},
    )
    return from_transformers("Glm5NextForConditionalGeneration")(config)


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
        **DELTA_HEADS,
        **EXPERTS,
        **SPECIAL,
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
}


def perturbed(model: nn.Module) -> nn.Module:
    """The model with every parameter moved a little, so that no norm or bias is trivial."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], nn.Module]:
    """Builds a model of the named family; the same one each time in a session."""
    made: dict[str, nn.Module] = {}

    def build(family: str) -> nn.Module:
        if family not in made:
            torch.manual_seed(0)
            made[family] = perturbed(FAMILIES[family]())
        return made[family]

    return build


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture
def model(family: str, tiny_model: Callable[[str], nn.Module]) -> nn.Module:
    """A tiny random model of `family`."""
    return tiny_model(family)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two sequences of 40 tokens, a length that no chunk size divides."""
    return torch.randint(3, VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
