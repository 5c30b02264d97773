"""Sizes that the models of all families share, and how a model is made of one."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from keelback.errors import InputError

VOCAB = 61


@dataclass(frozen=True)
class Size:
    """How large the layers of a model are; those of `TINY` by default.

    Attributes:
        d_model: Channels between the layers.
        intermediate: Channels inside a feed-forward layer.
        expert: The same inside an expert.
        head_dim: Channels of a head of attention.
        low_rank: Channels of keys and queries that are kept compressed.
        state: States per channel of a Mamba layer.
        scan_head, scan_state: Channels, and states per channel, of a head of Mamba-2.
        delta_head: Channels of keys and of values of a head with a delta rule.
        chunk: Steps that transformers computes at once.
        window: Past tokens that local attention reads.
    """

    vocab: int = VOCAB
    d_model: int = 32
    intermediate: int = 48
    expert: int = 16
    head_dim: int = 8
    low_rank: int = 8
    state: int = 4
    scan_head: int = 8
    scan_state: int = 8
    delta_head: int = 8
    chunk: int = 16
    window: int = 64

    @property
    def base(self) -> dict[str, Any]:
        """What every configuration has."""
        return {"vocab_size": self.vocab, "hidden_size": self.d_model}

    @property
    def heads(self) -> int:
        """Heads of attention."""
        return self.d_model // self.head_dim

    @property
    def grouped(self) -> dict[str, Any]:
        """Attention whose heads share keys by two."""
        return {"num_attention_heads": self.heads, "num_key_value_heads": self.heads // 2}

    @property
    def attention(self) -> dict[str, Any]:
        """Such attention, and a feed-forward layer."""
        return {"intermediate_size": self.intermediate, **self.grouped}

    @property
    def own_keys(self) -> dict[str, Any]:
        """Attention whose heads have keys of their own, and a feed-forward layer."""
        return {**self.attention, "num_key_value_heads": self.heads}

    @property
    def latent(self) -> dict[str, Any]:
        """The same with keys and values that are kept compressed."""
        return {
            "kv_lora_rank": self.low_rank,
            "qk_nope_head_dim": self.head_dim,
            "v_head_dim": self.head_dim,
            **self.own_keys,
        }

    @property
    def scan_heads(self) -> int:
        """Heads of Mamba-2, whose layers are twice as wide as the model."""
        return 2 * self.d_model // self.scan_head

    @property
    def mamba2(self) -> dict[str, Any]:
        """Mamba-2's layers in families that mix these with others."""
        return {
            "mamba_n_heads": self.scan_heads,
            "mamba_d_head": self.scan_head,
            "mamba_d_state": self.scan_state,
            "mamba_chunk_size": self.chunk,
        }

    @property
    def nemotron(self) -> dict[str, Any]:
        """All of NemotronH but which layers there are."""
        return {
            "head_dim": self.head_dim,
            "ssm_state_size": self.scan_state,
            "mamba_num_heads": self.scan_heads,
            "mamba_head_dim": self.scan_head,
            "n_groups": 2,
            "chunk_size": self.chunk,
            **self.attention,
        }

    @property
    def delta_heads(self) -> int:
        """Heads with delta rules."""
        return self.d_model // self.delta_head

    @property
    def delta(self) -> dict[str, Any]:
        """Gated delta rules."""
        return {
            "linear_num_key_heads": self.delta_heads // 2,
            "linear_num_value_heads": self.delta_heads,
            "linear_key_head_dim": self.delta_head,
            "linear_value_head_dim": self.delta_head,
        }

    @property
    def kimi_delta(self) -> dict[str, Any]:
        """Kimi delta attention."""
        return {"linear_head_dim": self.delta_head, "linear_num_heads": self.delta_heads}

    @property
    def experts(self) -> dict[str, Any]:
        """Two experts per token."""
        return {"num_experts_per_tok": 2, "moe_intermediate_size": self.expert}

    @property
    def shared_expert(self) -> dict[str, Any]:
        """Two experts of four per token, and one that all tokens have."""
        return {
            "num_experts": 4,
            "shared_expert_intermediate_size": self.expert,
            **self.experts,
        }


TINY = Size()
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def realistic(d_model: int) -> Size:
    """Layers whose heads and states are as large as those of models in use.

    Raises:
        InputError: `d_model` is no multiple of 256, of which heads are made.
    """
    if d_model < 256 or d_model % 256:
        raise InputError(f"d_model is {d_model}; it should be a multiple of 256")
    return Size(
        vocab=1024,
        d_model=d_model,
        intermediate=2 * d_model,
        expert=d_model // 2,
        head_dim=64,
        low_rank=d_model // 4,
        state=16,
        scan_head=64,
        scan_state=128,
        delta_head=128,
        chunk=256,
        window=2048,
    )


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


def causal_lm(name: str, size: Size, config: str | None = None, **fields: Any) -> nn.Module:
    """A model of class `<name>ForCausalLM`, of its own configuration or of `config`.

    Raises:
        InputError: this release of transformers does not have it.
    """
    made = class_named(config or f"{name}Config")(**size.base, **fields)
    return class_named(f"{name}ForCausalLM")(made)
