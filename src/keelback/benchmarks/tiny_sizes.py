"""Sizes of the tiny models of families, and how they are made."""

from typing import Any

from torch import nn

from keelback.errors import InputError

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


def class_named(name: str) -> Any:
    """A class of transformers.

    Raises:
        InputError: the release is too old, or too new, to have it.
    """
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        raise InputError(f"transformers {transformers.__version__} has no {name}")
    return found


def causal_lm(name: str, config: str | None = None, **fields: Any) -> nn.Module:
    """A model of class `<name>ForCausalLM`, of its own configuration or of `config`.

    Raises:
        InputError: this release of transformers does not have it.
    """
    made = class_named(config or f"{name}Config")(**SIZE, **fields)
    return class_named(f"{name}ForCausalLM")(made)
