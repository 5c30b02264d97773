"""Adapters read what the layers' own kernels are given, and change nothing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from keelback.audit import find_layers, not_audited, watching
from keelback.audit.adapters import ADAPTERS
from keelback.errors import InputError
from keelback.models import MambaLanguageModelConfig, SelectiveSSMConfig

KERNELS = (
    "mamba_selective_scan",
    "mamba2_chunk_scan",
    "torch_chunk_gated_delta_rule",
    "chunk_kimi_delta_attention",
)


@contextmanager
def recorded_kernels(model: nn.Module) -> Iterator[list[tuple[str, dict[str, Any], Any]]]:
    """What the scan kernels of the model's own module are called with, and what they give."""
    module = sys.modules[type(model).__module__]
    calls: list[tuple[str, dict[str, Any], Any]] = []
    original = {name: getattr(module, name) for name in KERNELS if hasattr(module, name)}

    def recorder(name: str) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            result = original[name](*args, **kwargs)
            names = {
                "mamba_selective_scan": ("u", "dt", "A", "B", "C"),
                "mamba2_chunk_scan": ("u", "dt", "A", "B", "C"),
            }.get(name, ("query", "key", "value"))
            calls.append((name, dict(zip(names, args, strict=True)) | kwargs, result))
            return result

        return record

    for name in original:
        setattr(module, name, recorder(name))
    try:
        yield calls
    finally:
        for name, function in original.items():
            setattr(module, name, function)


def observed(model: nn.Module, tokens: torch.Tensor, **kwargs: Any) -> tuple[Any, list[Any]]:
    recurrences = []
    with torch.no_grad(), watching(find_layers(model), lambda _, __, r: recurrences.append(r)):
        logits = model(tokens, use_cache=False, **kwargs).logits
    return logits, recurrences


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    scale = float(theirs.detach().abs().max())
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def test_every_layer_that_decays_is_found(model: nn.Module) -> None:
    layers = find_layers(model)
    with_decay = [m for m in model.modules() if "A_log" in dict(m.named_parameters(recurse=False))]
    assert len(layers) == len(with_decay)
    assert len({layer.name for layer in layers}) == len(layers)
    assert all((layer.state_matrix() < 0).all() for layer in layers)


def test_outputs_are_bit_identical(model: nn.Module, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        plain = model(tokens, use_cache=False).logits
    watched, recurrences = observed(model, tokens)
    assert torch.equal(plain, watched)
    assert len(recurrences) == len(find_layers(model))
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


def test_the_recurrence_is_what_the_kernel_was_given(
    family: str, model: nn.Module, tokens: torch.Tensor
) -> None:
    with recorded_kernels(model) as calls:
        _, recurrences = observed(model, tokens)
    per_layer = len(calls) // len(recurrences)
    assert per_layer == (2 if family == "zamba" else 1)
    for i, recurrence in enumerate(recurrences):
        own = calls[i * per_layer : (i + 1) * per_layer]
        decay, gate, y = (torch.cat(parts, 2) for parts in zip(*map(kernel_view, own), strict=True))
        assert close(recurrence.delta.unsqueeze(-1) * recurrence.A, decay)
        assert close(recurrence.output() * gate, y)


def kernel_view(call: tuple[str, dict[str, Any], Any]) -> tuple[torch.Tensor, ...]:
    """Log decays `(batch, length, rates, state)`, output gate and output, as in the kernel."""
    name, given, result = call
    if name == "mamba_selective_scan":
        delta = torch.nn.functional.softplus(given["dt"] + given["delta_bias"][:, None])
        gate = torch.nn.functional.silu(given["z"]).transpose(1, 2)
        return delta.transpose(1, 2).unsqueeze(-1) * given["A"], gate, result.transpose(1, 2)
    if name == "mamba2_chunk_scan":
        delta = torch.nn.functional.softplus(given["dt"] + given["dt_bias"])
        decay, y = delta.clamp(*given["dt_limit"]) * given["A"], result.flatten(2)
    else:
        decay, y = given["g"].flatten(2), result[0].flatten(2)
    return decay.unsqueeze(-1), torch.ones_like(y), y


def test_padding_is_masked_as_the_model_masks_it(model: nn.Module, tokens: torch.Tensor) -> None:
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    with recorded_kernels(model) as calls:
        _, recurrences = observed(model, tokens, attention_mask=mask)
    decay, gate, y = kernel_view(calls[-1])
    rates, channels = decay.shape[2], y.shape[2]
    last = recurrences[-1]
    assert close(last.output()[..., -channels:] * gate, y)
    assert close((last.delta.unsqueeze(-1) * last.A)[:, :, -rates:], decay)


def test_attention_weights_rebuild_the_output(model: nn.Module, tokens: torch.Tensor) -> None:
    _, recurrences = observed(model, tokens)
    recurrence = recurrences[-1]
    query, rates = 33, [0, 3, recurrence.A.shape[0] - 1]
    weights = recurrence.attention(query, rates)
    assert weights.shape == (2, 3, query + 1)
    if hasattr(recurrence, "value"):
        heads = recurrence.beta.shape[-1]
        every = recurrence.attention(query, range(recurrence.A.shape[0]))
        by_head = every.unflatten(1, (heads, -1)).sum(2)
        y = torch.einsum("bhs,bshv->bhv", by_head, recurrence.value[:, : query + 1])
        assert close(y.flatten(1), recurrence.output()[:, query])
        return
    width = recurrence.u.shape[-1] // recurrence.A.shape[0]
    for i, rate in enumerate(rates):
        channels = slice(rate * width, (rate + 1) * width)
        u = recurrence.u[:, :, channels]
        y = torch.einsum("bs,bsc->bc", weights[:, i], u[:, : query + 1])
        y = y + recurrence.D[channels] * u[:, query]
        assert close(y, recurrence.output()[:, query, channels])


def test_state_norms_are_those_of_the_recurrence(model: nn.Module, tokens: torch.Tensor) -> None:
    """The norms must not depend on where the sequence is cut, and the first is of one write."""
    _, recurrences = observed(model, tokens)
    recurrence = recurrences[0]
    every = recurrence.state_norms(range(40))
    assert close(recurrence.state_norms([3, 17, 39]), every[:, [3, 17, 39]])
    if hasattr(recurrence, "value"):
        written = recurrence.beta[:, 0, :, None] * recurrence.key[:, 0]
        norm = written.abs() * recurrence.value[:, 0].norm(dim=-1, keepdim=True)
        rows = norm if recurrence.A.shape[0] > norm.shape[1] else norm.norm(dim=-1, keepdim=True)
        assert close(every[:, 0], rows.flatten(1))
        return
    B = recurrence.B[:, 0].repeat_interleave(recurrence.u.shape[-1] // recurrence.B.shape[2], 1)
    per_channel = recurrence.u[:, 0].abs() * B.norm(dim=-1)
    by_rate = per_channel.unflatten(-1, (recurrence.A.shape[0], -1)).square().mean(-1).sqrt()
    assert close(every[:, 0], recurrence.delta[:, 0] * by_rate)


class FusedMamba(nn.Module):
    """A layer with Mamba's parts that, like a fused kernel, uses weights and calls no part."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(8, 32)
        self.conv1d = nn.Conv1d(16, 16, 4, groups=16, padding=3)
        self.x_proj = nn.Linear(16, 2 + 2 * 4, bias=False)
        self.dt_proj = nn.Linear(2, 16)
        self.A_log = nn.Parameter(torch.randn(16, 4))
        self.D = nn.Parameter(torch.ones(16))

    def inputs(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (hidden_states @ self.in_proj.weight.T + self.in_proj.bias)[..., :16]
        padded = torch.nn.functional.pad(x.transpose(1, 2), (3, 0))
        u = torch.nn.functional.silu(
            torch.nn.functional.conv1d(padded, self.conv1d.weight, self.conv1d.bias, groups=16)
        ).transpose(1, 2)
        step = (u @ self.x_proj.weight.T)[..., :2] @ self.dt_proj.weight.T + self.dt_proj.bias
        return u, torch.nn.functional.softplus(step)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.inputs(hidden_states)[0]


def test_layers_whose_kernels_bypass_their_parts_are_replayed() -> None:
    torch.manual_seed(0)
    layer = FusedMamba()
    x = torch.randn(3, 11, 8)
    seen = []
    with watching(find_layers(layer), lambda _, __, r: seen.append(r)):
        layer(x)
    u, delta = layer.inputs(x)
    assert torch.allclose(seen[0].u, u, atol=1e-6)
    assert torch.allclose(seen[0].delta, delta, atol=1e-6)


def test_own_layers_are_read_as_they_compute() -> None:
    tokens = torch.randint(0, 9, (2, 30))
    stack = MambaLanguageModelConfig(vocab_size=9, d_model=8, n_layers=2, d_state=3).build()
    classifier = SelectiveSSMConfig(vocab_size=9, d_model=5).build()
    seen = []
    for model in (stack, classifier):
        with torch.no_grad(), watching(find_layers(model), lambda *call: seen.append(call)):
            plain = model.trace(tokens)["y"] if model is classifier else model(tokens)
        again = model.trace(tokens)["y"] if model is classifier else model(tokens)
        assert torch.equal(plain, again)
    for layer, u, recurrence in seen:
        y = recurrence.output()
        block = layer.module
        if layer.kind == "mamba":
            gate = torch.nn.functional.silu(u @ block.W_in[block.W_in.shape[0] // 2 :].mT)
            y = (y * gate) @ block.W_out.mT
        assert close(y, block(u))
    assert len(seen) == 3


CACHES = ("cache", "cache_params", "past_key_values")


def cache_of(output: Any) -> tuple[str, Any]:
    """What a model gives to go on from, under the name that it takes it by."""
    return next((name, output[name]) for name in CACHES if output.get(name) is not None)


@pytest.mark.parametrize("more", [1, 3])
def test_what_goes_on_from_a_cache_is_not_read(
    tiny_model: Any, tokens: torch.Tensor, more: int
) -> None:
    """Whatever the version of transformers calls it, and however many tokens come at once."""
    for family in ("mamba", "mamba2", "jamba", "qwen3-next", "qwen3.5"):
        model = tiny_model(family)
        passes = []
        layers = find_layers(model)
        with torch.no_grad(), watching(layers, lambda _, __, r, own=passes: own.append(r.length)):
            name, cache = cache_of(model(tokens, use_cache=True))
            model(tokens[:, :more], **{name: cache}, use_cache=True)
            model(tokens[:, :1], use_cache=True)
        assert passes == [40] * len(layers) + [1] * len(layers), family


class InferenceParams:
    """As mamba_ssm has it."""

    def __init__(self, seqlen_offset: int) -> None:
        self.seqlen_offset = seqlen_offset


def test_states_under_other_names() -> None:
    class Takes(FusedMamba):
        def forward(self, u: Any, past: Any = None, ssm_state: Any = None) -> Any:
            return self.inputs(u)[0]

    layer, x = Takes(), torch.randn(2, 5, 8)
    passes: list[int] = []
    with watching(find_layers(layer), lambda _, __, r: passes.append(r.length)):
        layer(x, InferenceParams(0))
        layer(x[:, :4], past=InferenceParams(7))
        layer(u=x[:, :3], ssm_state=torch.zeros(2, 16, 4))
        layer(x[:, :2], ssm_state=torch.ones(2, 16, 4))
        layer(u=x[:, :1], past=None)
    assert passes == [5, 3, 1]


def test_packed_sequences_are_not_read_as_one() -> None:
    class Packs(FusedMamba):
        def forward(self, hidden_states: Any, cu_seqlens: Any = None, **kwargs: Any) -> Any:
            return self.inputs(hidden_states)[0]

    layer, x = Packs(), torch.randn(1, 40, 8)
    passes: list[int] = []
    bounds = torch.tensor([0, 10, 40])
    with watching(find_layers(layer), lambda _, __, r: passes.append(r.length)):
        layer(x, bounds)
        layer(x, cu_seq_lens_q=bounds)
        layer(x, seq_idx=torch.arange(40)[None] // 10)
        layer(x, cu_seq_lens_q=torch.tensor([0, 40]))
        layer(x[:, :30], seq_idx=torch.zeros(1, 30, dtype=torch.int32))
    assert passes == [40, 30]


def test_a_model_without_state_spaces_says_what_it_is() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2)
    with pytest.raises(InputError, match="1 MultiheadAttention"):
        find_layers(encoder)
    with pytest.raises(InputError, match="2 Linear"):
        find_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("family", "besides"),
    [
        ("mamba", {}),
        ("bamba", {"BambaAttention": 1}),
        ("jamba", {"JambaAttention": 1}),
        ("olmo-hybrid", {"OlmoHybridAttention": 1}),
    ],
)
def test_what_a_hybrid_has_besides_is_named(
    tiny_model: Any, family: str, besides: dict[str, int]
) -> None:
    """Neither the block around a layer that is audited nor that around what is named."""
    model = tiny_model(family)
    assert not_audited(model, find_layers(model)) == besides


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        *(
            (name, True)
            for name in ("DeltaNet", "HGRNAttention", "HyenaOperator", "S4D", "S5Block")
        ),
        *((name, True) for name in ("GLA", "RetentionLayer", "StateSpaceMixer", "TTTLayer")),
        *((name, False) for name in ("Params4bitLinear", "GlassPane", "S4Norm", "FeedForward")),
    ],
)
def test_layers_of_other_kinds_are_named(tiny_model: Any, name: str, is_named: bool) -> None:
    """Of which nobody else would know that nothing was said."""
    model = nn.ModuleList([tiny_model("mamba"), type(name, (nn.Linear,), {})(3, 3)])
    assert (not_audited(model, find_layers(model)) == {name: 1}) == is_named


def test_one_adapter_matches_each_layer(model: nn.Module) -> None:
    for layer in find_layers(model):
        assert [a for a in ADAPTERS if a.matches(layer.module)] == [layer.adapter]
