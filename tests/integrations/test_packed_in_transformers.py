"""Packed sequences in transformers' layers, and layers that are run again for their gradients."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from keelback.errors import InputError
from keelback.integrations import use_in_transformers
from keelback.integrations._packed import reset_of
from keelback.integrations._recompute import is_waited_for

transformers = pytest.importorskip("transformers")

SIZE: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32}
HEADS: dict[str, Any] = {"intermediate_size": 48, "num_attention_heads": 4}
BY_HEADS: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {"num_hidden_layers": 2, "state_size": 4}),
    "falcon_mamba": ("FalconMamba", {"num_hidden_layers": 2, "state_size": 4}),
    "jamba": (
        "Jamba",
        {
            "num_hidden_layers": 2,
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "num_key_value_heads": 2,
            **HEADS,
        },
    ),
    "zamba": (
        "Zamba",
        {
            "num_hidden_layers": 4,
            "n_mamba_heads": 2,
            "mamba_d_state": 4,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "num_key_value_heads": 4,
            **HEADS,
        },
    ),
    "mamba2": (
        "Mamba2",
        {
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 16,
        },
    ),
    "bamba": (
        "Bamba",
        {"num_hidden_layers": 2, "attn_layer_indices": [1], "num_key_value_heads": 2}
        | HEADS
        | BY_HEADS,
    ),
    "falcon_h1": (
        "FalconH1",
        {"num_hidden_layers": 2, "mamba_d_ssm": 64, "num_key_value_heads": 2} | HEADS | BY_HEADS,
    ),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {
            "num_hidden_layers": 2,
            "layer_types": ["mamba", "mamba"],  # its attention runs packed sequences together
            "num_local_experts": 2,
            "shared_intermediate_size": 48,
            "num_key_value_heads": 2,
        }
        | HEADS
        | BY_HEADS,
    ),
    "nemotron_h": (
        "NemotronH",
        {
            "layers_block_type": ["mamba", "attention"],
            "head_dim": 8,
            "ssm_state_size": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "chunk_size": 16,
            "num_key_value_heads": 2,
            **HEADS,
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            "num_hidden_layers": 2,
            "layers_block_type": ["mamba", "hybrid"],
            "n_mamba_heads": 8,
            "mamba_d_state": 8,
            "mamba_headdim": 8,
            "chunk_size": 16,
            "num_key_value_heads": 4,
            **HEADS,
        },
    ),
}
LENGTHS = (10, 1, 14, 3)


def made(family: str) -> Any:
    name, fields = MODELS[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZE, **fields)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def texts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 61, (1, n), generator=generator) for n in LENGTHS]


def positions() -> dict[str, torch.Tensor]:
    return {"position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None]}


def bounds() -> dict[str, Any]:
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    longest = max(LENGTHS)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def numbers() -> dict[str, torch.Tensor]:
    return {"seq_idx": torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))[None]}


TOLD: dict[str, Callable[[], dict[str, Any]]] = {
    "position_ids": positions,
    "cu_seq_lens": bounds,
    "seq_idx": numbers,
}


@pytest.mark.parametrize("told", sorted(TOLD))
@pytest.mark.parametrize("family", sorted(MODELS))
def test_packed_sequences_are_kept_apart(family: str, told: str, texts: list[torch.Tensor]) -> None:
    """Told in any of three ways, with positions for attention, where there is some."""
    model = made(family)
    with use_in_transformers(), torch.no_grad():
        alone = torch.cat([model(text, use_cache=False).logits for text in texts], dim=1)
        together = model(
            torch.cat(texts, 1), use_cache=False, **{**positions(), **TOLD[told]()}
        ).logits
        run_on = model(torch.cat(texts, 1), use_cache=False).logits
    assert torch.allclose(together, alone, atol=1e-4 * float(alone.abs().max()))
    assert not torch.allclose(run_on, alone, atol=1e-3 * float(alone.abs().max()))


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_no_more_than_positions_is_needed(family: str, texts: list[torch.Tensor]) -> None:
    """As DataCollatorWithFlattening gives them; each of the ways by itself."""
    model = made(family)
    collator = transformers.DataCollatorWithFlattening()
    features = [{"input_ids": text[0].tolist()} for text in texts]
    batch = collator(features, return_tensors="pt")
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    with use_in_transformers(), torch.no_grad():
        alone = torch.cat([model(text, use_cache=False).logits for text in texts], dim=1)
        found = model(**{k: batch[k] for k in ("input_ids", "position_ids")}, use_cache=False)
        assert torch.allclose(found.logits, alone, atol=1e-4)
        for told in (bounds, numbers):
            found = model(torch.cat(texts, 1), use_cache=False, **told())
            assert torch.allclose(found.logits, alone, atol=1e-4)


def test_positions_that_count_on_pack_nothing(texts: list[torch.Tensor]) -> None:
    model, text = made("mamba2"), torch.cat(texts, 1)
    with use_in_transformers(), torch.no_grad():
        expected = model(text, use_cache=False).logits
        given = {"position_ids": torch.arange(5, 5 + text.shape[1])[None]}
        assert torch.equal(model(text, use_cache=False, **given).logits, expected)


def test_padding_is_no_packing(texts: list[torch.Tensor]) -> None:
    """Positions of a batch padded at the left repeat or restart where the text begins."""
    model = made("mamba2")
    text = torch.cat([texts[0], texts[2][:, :10]])
    mask = torch.ones_like(text)
    mask[1, :4] = 0
    where = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    with use_in_transformers(), torch.no_grad():
        expected = model(text, attention_mask=mask, use_cache=False).logits
        found = model(text, attention_mask=mask, position_ids=where, use_cache=False).logits
    kept = mask.bool()
    assert torch.allclose(found[kept], expected[kept], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cu_seq_lens_q": torch.tensor([0, 4, 9])}, "must rise from 0 to the 8 tokens"),
        ({"cu_seqlens": torch.tensor([1, 8])}, "must rise from 0 to the 8 tokens"),
        ({"cu_seqlens": torch.tensor([0, 6, 4, 8])}, r"it is \[0, 6, 4, 8\]"),
        ({"seq_idx": torch.tensor([[0, 0, 1, 1]])}, "cannot go on from a cache"),
    ],
)
def test_packing_that_does_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        reset_of(options, 1, 8)


@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_convolution_of_packed_sequences(activation: str | None, dtype: torch.dtype) -> None:
    module = importlib.import_module("transformers.models.mamba.modeling_mamba")
    x = torch.randn(1, 12, sum(LENGTHS)).to(dtype)
    weight, bias = torch.randn(12, 4).to(dtype), torch.randn(12).to(dtype)
    parts = x.split(list(LENGTHS), dim=-1)
    expected = torch.cat(
        [module.causal_conv1d_fn(part, weight, bias, activation=activation) for part in parts], -1
    )
    with use_in_transformers():
        found = module.causal_conv1d_fn(x, weight, bias, activation=activation, **numbers())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def checkpointed(family: str, use_reentrant: bool = False) -> Any:
    model = made(family).train()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    return model


def gradients(model: Any) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["mamba", "mamba2", "jamba", "bamba"])
@pytest.mark.parametrize("packed", [True, False])
def test_leaving_before_the_backward_pass(
    family: str, packed: bool, texts: list[torch.Tensor]
) -> None:
    """What is run again for the gradients is what ran at first, packing included."""
    told = {**positions(), **numbers()} if packed else {}
    text = torch.cat(texts, 1)
    plain = made(family).train()
    with use_in_transformers():
        plain(text, use_cache=False, **told).logits.square().mean().backward()
    expected = gradients(plain)
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    name = (
        "mamba_selective_scan" if hasattr(module, "mamba_selective_scan") else "mamba2_chunk_scan"
    )
    theirs = getattr(module, name)

    model = checkpointed(family)
    with use_in_transformers():
        loss = model(text, use_cache=False, **told).logits.square().mean()
    assert is_waited_for()
    if not packed:
        with torch.no_grad():
            model(text[:, :3], use_cache=False)  # theirs, in between
    loss.backward()
    for one, other in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    del loss, model
    with use_in_transformers():
        pass
    assert getattr(module, name) is theirs


def test_two_batches_before_the_backward_pass(texts: list[torch.Tensor]) -> None:
    """Each is run again with its own packing."""
    text = torch.cat(texts, 1)
    other = {"seq_idx": (torch.arange(text.shape[1]) // 7)[None]}
    expected = made("mamba2").train()
    model = checkpointed("mamba2")
    for own in (expected, model):
        with use_in_transformers():
            losses = [
                own(text, use_cache=False, **told).logits.square().mean()
                for told in (numbers(), {}, other)
            ]
        sum(losses).backward()
    for one, two in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_entering_after_the_forward_pass(texts: list[torch.Tensor]) -> None:
    text = torch.cat(texts, 1)
    expected = made("mamba").train()
    expected(text, use_cache=False).logits.square().mean().backward()
    model = checkpointed("mamba")
    loss = model(text, use_cache=False).logits.square().mean()
    with use_in_transformers():
        loss.backward()
    for one, two in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_reentrant_checkpoints(texts: list[torch.Tensor]) -> None:
    text = torch.cat(texts, 1)
    expected = made("mamba").train()
    with use_in_transformers():
        expected(text, use_cache=False).logits.square().mean().backward()
    model = checkpointed("mamba", use_reentrant=True)
    with use_in_transformers():
        loss = model(text, use_cache=False).logits.square().mean()
    loss.backward()
    for one, two in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    with use_in_transformers():
        loss = model(text, use_cache=False, **positions()).logits.square().mean()
        with pytest.raises(InputError, match="use_reentrant"):
            loss.backward()
