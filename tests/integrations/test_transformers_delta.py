"""The delta rules of transformers' layers with keelback's in the place of their own."""

import warnings
from typing import Any

import pytest
import torch
from checkpointing import with_and_without
from torch import Tensor, nn

from keelback.benchmarks.families import VOCAB, build
from keelback.errors import InputError
from keelback.integrations import _delta, use_in_transformers
from keelback.integrations._packed import packed_as
from keelback.integrations._transformers import FAMILIES_OF_DELTA_RULES, FAMILIES_OF_KIMI_DELTA

transformers = pytest.importorskip("transformers")
FAMILIES = {
    "qwen3-next": "qwen3_next",
    "qwen3.5": "qwen3_5",
    "qwen3.5-moe": "qwen3_5_moe",
    "qwen4-exp": "qwen4_exp",
    "olmo-hybrid": "olmo_hybrid",
    "lara-mini": "lara_mini",
    "kimi-linear": "kimi_linear",
    "bailing-hybrid": "bailing_hybrid",
    "glm5-next": "glm5_next",
}
#: A language model inside another model.
COMPOSITES = {"qwen3.5-vision": "qwen3_5", "minicpm-v4.6": "qwen3_5"}
MODULES = FAMILIES | COMPOSITES
LENGTHS = (10, 1, 14, 3)


def functions_of(family: str) -> list[str]:
    """The full names of the functions that are replaced."""
    module = MODULES[family]
    names = _delta.BY_CHANNEL if module in FAMILIES_OF_KIMI_DELTA else _delta.BY_HEAD
    return [f"transformers.models.{module}.modeling_{module}.{name}" for name in names]


def made(family: str) -> nn.Module:
    """A small model of a family, with parameters that are not those it begins with."""
    torch.manual_seed(0)
    try:
        model = build(family).eval()
    except InputError as error:
        pytest.skip(f"{family}: {error}")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    with use_in_transformers() as replaced:
        if not set(functions_of(family)) <= set(replaced.names):
            pytest.skip(f"{family}: transformers {transformers.__version__} builds it otherwise")
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the sequences that keelback's function was given."""
    found: list[int] = []
    ours = _delta.delta_attention

    def watched(query: Tensor, *operands: Tensor, **options: Any) -> Any:
        found.append(query.shape[1])
        return ours(query, *operands, **options)

    monkeypatch.setattr(_delta, "delta_attention", watched)
    return found


def test_every_family_is_tested() -> None:
    assert set(FAMILIES.values()) == {*FAMILIES_OF_DELTA_RULES, *FAMILIES_OF_KIMI_DELTA}


@pytest.mark.parametrize("family", MODULES)
def test_a_model_trains_and_generates_the_same(family: str, calls: list[int]) -> None:
    model = made(family)
    tokens = torch.randint(3, VOCAB - 10, (2, 70), generator=torch.Generator().manual_seed(0))

    def found() -> tuple[Tensor, list[Tensor], Tensor]:
        model.zero_grad()
        logits = model(tokens, use_cache=False).logits
        logits.square().mean().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            generated = model.generate(
                tokens[:, :20],
                max_new_tokens=6,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        return logits.detach(), gradients, torch.stack(generated.logits)

    theirs = found()
    assert calls == []
    with use_in_transformers():
        ours = found()
    assert {1, 20, 70} <= set(calls)
    # In float32 a rate's gradient is a sum of terms that cancel: theirs is 5e-4 from float64.
    tolerances = {"A_log": 1e-3, "dt_bias": 1e-3}
    names = [name for name, p in model.named_parameters() if p.grad is not None]
    flat = [[logits, *gradients, generated] for logits, gradients, generated in (ours, theirs)]
    for name, one, other in zip(["logits", *names, "generated"], *flat, strict=True):
        tolerance = tolerances.get(name.rsplit(".", 1)[-1], 1e-4)
        size = float(other.abs().max())
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance * max(size, 1e-3), msg=name
        )
    assert not torch.equal(ours[0], theirs[0])
    assert torch.equal(found()[0], theirs[0])


@pytest.mark.parametrize("family", ["qwen3-next", "kimi-linear"])
def test_decoding_goes_on_from_a_cache_in_pieces(family: str) -> None:
    """Prompt, several tokens at once, and single ones: the logits of one call over all."""
    model = made(family)
    tokens = torch.randint(3, VOCAB, (2, 40))
    with use_in_transformers(), torch.no_grad():
        whole = model(tokens, use_cache=False).logits
        cache, found = None, []
        for piece in tokens.split([20, 15, 1, 1, 1, 1, 1], dim=1):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3-next", "olmo-hybrid", "kimi-linear"])
def test_padding_at_the_left_changes_nothing(family: str) -> None:
    model = made(family)
    tokens = torch.randint(3, VOCAB, (2, 30))
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    with torch.no_grad():
        theirs = model(tokens, attention_mask=mask, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, attention_mask=mask, use_cache=False).logits
    kept = mask.bool()
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3-next", "olmo-hybrid", "kimi-linear"])
def test_packed_sequences_are_kept_apart(family: str) -> None:
    """transformers itself refuses them without flash-linear-attention."""
    model = made(family)
    texts = [torch.randint(3, VOCAB, (1, length)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    told = {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(LENGTHS),
        "max_length_k": max(LENGTHS),
    }
    with use_in_transformers(), torch.no_grad():
        alone = torch.cat([model(text, use_cache=False).logits for text in texts], dim=1)
        for more in ({}, told):
            found = model(torch.cat(texts, 1), use_cache=False, position_ids=positions, **more)
            torch.testing.assert_close(found.logits, alone, rtol=1e-3, atol=1e-4)
        run_on = model(torch.cat(texts, 1), use_cache=False).logits
    assert not torch.allclose(run_on, alone, atol=1e-3)


@pytest.mark.parametrize("family", ["qwen3-next", "kimi-linear"])
def test_layers_are_run_again_for_their_gradients_as_they_ran(family: str) -> None:
    model = made(family).train()
    tokens = torch.randint(3, VOCAB, (2, 30))
    for one, other in zip(*with_and_without(model, tokens), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["qwen3-next", "kimi-linear"])
def test_other_widths_keep_their_types(family: str, dtype: torch.dtype) -> None:
    module = MODULES[family]
    named = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    whole, step = functions_of(family)
    by_channel = module in FAMILIES_OF_KIMI_DELTA
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    q, k, v = (normal(2, 30, 3, 8).to(dtype) for _ in range(3))
    g = -normal(*((2, 30, 3, 8) if by_channel else (2, 30, 3))).square()
    beta, states = normal(2, 30, 3).sigmoid().to(dtype), normal(2, 3, 8, 8)
    for name, length in ((whole, 30), (step, 1)):
        theirs = getattr(named, name.rpartition(".")[2])
        given = [x[:, :length] for x in (q, k, v)]
        options = {
            "g": g[:, :length],
            "beta": beta[:, :length],
            "initial_state": states,
            "output_final_state": True,
            "use_qk_l2norm_in_kernel": True,
        }
        expected, last = theirs(*given, **options)
        with use_in_transformers() as replaced:
            if name not in replaced.names:
                pytest.skip(f"{family}: transformers {transformers.__version__} has it otherwise")
            ours = getattr(named, name.rpartition(".")[2])
            y, after = ours(*given, **options)
            nothing = ours(*given, **{**options, "output_final_state": False})[1]
        assert y.dtype == expected.dtype == dtype
        assert nothing is None
        tolerance = 1e-5 if dtype == torch.float64 else 1e-2
        torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(after.float(), last.float(), rtol=tolerance, atol=tolerance)


def test_a_family_whose_layers_keep_their_functions_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in older releases, whose layers take the function when they are made."""
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")

    def forward(self: Any, x: Tensor) -> Any:
        return self.chunk_gated_delta_rule(x)

    monkeypatch.setattr(module.Qwen3NextGatedDeltaNet, "forward", forward)
    with use_in_transformers() as replaced:
        assert not [name for name in replaced.names if "qwen3_next" in name]


class OnGpu(Tensor):
    is_cuda = True


@pytest.mark.parametrize(
    ("dtype", "key", "decay", "whose"),
    [
        (torch.bfloat16, 64, "head", "ours"),
        (torch.float16, 32, "head", "ours"),
        (torch.float32, 64, "head", "theirs"),
        (torch.bfloat16, 64, "channel", "ours"),
        (torch.bfloat16, 48, "channel", "theirs"),
        (torch.float16, 64, "channel", "theirs"),
        (torch.float32, 64, "channel", "theirs"),
        (torch.bfloat16, 48, "head", "theirs"),
        (torch.bfloat16, 160, "head", "theirs"),
    ],
)
def test_kernels_of_fla_stay_on_a_gpu_where_ours_are_not_faster(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, key: int, decay: str, whose: str
) -> None:
    monkeypatch.setattr(_delta, "is_installed", lambda package: package == "fla")
    monkeypatch.setattr(_delta, "delta_attention", lambda *operands, **options: "ours")
    rule = _delta.delta_rules({"rule": lambda *operands, **options: "theirs"})["rule"]
    q, v = torch.ones(1, 3, 2, key, dtype=dtype), torch.ones(1, 3, 2, 16, dtype=dtype)
    g, beta = -torch.ones(q.shape if decay == "channel" else q.shape[:3]), torch.ones(1, 3, 2)
    on_gpu = q.as_subclass(OnGpu)
    assert rule(on_gpu, q, v, g=g, beta=beta) == whose
    assert rule(q, q, v, g=g, beta=beta) == "ours"
    assert rule(on_gpu, q.double(), v, g=g, beta=beta) == "theirs"
    with packed_as(torch.tensor([[True, False, True]])):
        assert rule(on_gpu, q, v, g=g, beta=beta) == "ours"
        bounds = torch.tensor([0, 2, 3])
        assert rule(on_gpu, q, v, g=g, beta=beta, cu_seqlens=bounds) == whose
    assert "otherwise fla's" in _delta.who_computes_on_gpu()


def test_options_that_would_change_the_result_are_refused_and_unknown_ones_named() -> None:
    q = torch.ones(1, 3, 2, 4)
    operands = {"g": -torch.ones(1, 3, 2), "beta": torch.ones(1, 3, 2)}
    with pytest.raises(InputError, match="does not take use_gate_in_kernel"):
        _delta.delta_attention(q, q, q, **operands, use_gate_in_kernel=True)
    with pytest.warns(RuntimeWarning, match="wings has no effect on a delta rule"):
        _delta.delta_attention(q, q, q, **operands, wings=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off = {"use_gate_in_kernel": False, "scale": None, "wings": None}
        known = {"chunk_size": 64, "max_length_q": 3, "output_attentions": True}
        _delta.delta_attention(q, q, q, **operands, **off, **known)
