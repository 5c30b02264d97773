"""RecurrentGemma and RWKV of transformers with keelback's recurrences in the place of their own."""

from typing import Any

import pytest
import torch
from checkpointing import with_and_without
from models_compared import close, results
from torch import Tensor, nn

from keelback.benchmarks.families import VOCAB, build
from keelback.integrations import _diagonal, use_in_transformers

transformers = pytest.importorskip("transformers")
FAMILIES = ("recurrent-gemma", "rwkv")
OPERATORS = {"recurrent-gemma": "diagonal_recurrence", "rwkv": "wkv"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def calls(family: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the sequences that keelback's operator was given."""
    found: list[int] = []
    ours = getattr(_diagonal, OPERATORS[family])

    def watched(first: Tensor, *operands: Any) -> Any:
        found.append(first.shape[1])
        return ours(first, *operands)

    monkeypatch.setattr(_diagonal, OPERATORS[family], watched)
    return found


def test_a_model_trains_and_generates_the_same(family: str, calls: list[int]) -> None:
    model: nn.Module = build(family)
    # RWKV's single steps in transformers 5.24 mix the sequences of a batch.
    tokens = torch.randint(3, VOCAB - 10, (1 if family == "rwkv" else 2, 70))
    theirs = results(model, tokens)
    assert calls == []
    with use_in_transformers() as replaced:
        ours = results(model, tokens)
    assert any(family.replace("-", "_") in name for name in replaced.names)
    assert set(calls) == {20, 70}
    close(ours, theirs)
    assert all(torch.equal(x, y) for x, y in zip(results(model, tokens), theirs, strict=True))


def test_in_float64_they_agree_to_what_theirs_keeps(family: str) -> None:
    """Both of theirs add up in float32, whatever the model's type."""
    model = build(family).double()
    tokens = torch.randint(3, VOCAB, (1, 40))
    with torch.no_grad():
        theirs = model(tokens, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, use_cache=False).logits
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_its_type(family: str) -> None:
    model = build(family).bfloat16()
    tokens = torch.randint(3, VOCAB, (1, 40))
    with torch.no_grad():
        theirs = model(tokens, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, use_cache=False).logits
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)


def test_padding_at_the_left_is_as_theirs() -> None:
    """Of the two, RecurrentGemma alone takes a mask."""
    model = build("recurrent-gemma")
    tokens = torch.randint(3, VOCAB, (2, 30))
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    with torch.no_grad():
        theirs = model(tokens, attention_mask=mask, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_positions_of_zero_begin_a_sequence_as_theirs_do() -> None:
    model = build("recurrent-gemma")
    tokens = torch.randint(3, VOCAB, (1, 30))
    positions = torch.cat([torch.arange(12), torch.arange(18)])[None]
    with torch.no_grad():
        theirs = model(tokens, position_ids=positions, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, position_ids=positions, use_cache=False).logits
            run_on = model(tokens, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, run_on, atol=1e-3)


def test_a_state_is_taken_up_in_pieces_longer_than_a_step() -> None:
    model = build("rwkv")
    tokens = torch.randint(3, VOCAB, (1, 40))
    with use_in_transformers(), torch.no_grad():
        whole = model(tokens, use_cache=False).logits
        state, found = None, []
        for piece in tokens.split([20, 15, 1, 1, 1, 1, 1], dim=1):
            out = model(piece, state=state, use_cache=True)
            state = out.state
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-4)


def test_layers_are_run_again_for_their_gradients_as_they_ran(family: str) -> None:
    model: Any = build(family).train()
    close(*with_and_without(model, torch.randint(3, VOCAB, (2, 30))))


def test_their_own_kernel_stays_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
    monkeypatch.setattr(module, "rwkv_cuda_kernel", object())
    monkeypatch.setattr(module, "rwkv_linear_attention", lambda *a, **options: "theirs")
    found = _diagonal.rwkv_attention(module)

    class OnGpu:
        is_cuda, shape = True, (1, 8, 4)

    assert found(None, None, OnGpu(), None) == "theirs"
    k = torch.ones(1, 8, 4)
    assert found(torch.ones(4), torch.ones(4), k, k)[0].shape == k.shape
