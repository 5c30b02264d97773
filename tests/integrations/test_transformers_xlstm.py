"""xLSTM of transformers with keelback's mLSTM in the place of its own chunks and steps."""

import copy
import inspect
from typing import Any

import pytest
import torch
from checkpointing import with_and_without
from models_compared import close, results
from torch import Tensor

from keelback.integrations import _mlstm, use_in_transformers

transformers = pytest.importorskip("transformers")
module: Any = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
if module.external_xlstm:
    pytest.skip("its layers are those of the package xlstm", allow_module_level=True)


VOCAB = 50


@pytest.fixture
def model() -> Any:
    """With gates that are not what they are at the start, where nothing is written.

    Its cache has the sizes of its layers where these are multiples of 64.
    """
    torch.manual_seed(0)
    config = transformers.xLSTMConfig(
        vocab_size=VOCAB, hidden_size=128, num_heads=2, num_hidden_layers=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    found = transformers.xLSTMForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "gate_preact" in name and "ogate" not in name:
                weight.copy_(torch.randn_like(weight) * (1.0 if name.endswith("bias") else 0.1))
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the sequences that keelback's operator was given."""
    found: list[int] = []
    ours = _mlstm.mlstm

    def watched(q: Tensor, *operands: Any, **options: Any) -> Any:
        found.append(q.shape[1])
        return ours(q, *operands, **options)

    monkeypatch.setattr(_mlstm, "mlstm", watched)
    return found


def test_a_model_trains_and_generates_the_same(model: Any, calls: list[int]) -> None:
    tokens = torch.randint(3, VOCAB - 10, (2, 70))
    theirs = results(model, tokens)
    assert calls == []
    with use_in_transformers() as replaced:
        ours = results(model, tokens)
    assert any("xLSTMBackend.forward" in name for name in replaced.names)
    assert set(calls) == {20, 70}
    close(ours, theirs)
    assert all(torch.equal(x, y) for x, y in zip(results(model, tokens), theirs, strict=True))


@pytest.mark.parametrize(
    ("mode", "length"), [("train", 128), ("train_with_padding", 70), ("train", 70)]
)
def test_modes_of_training(mode: str, length: int) -> None:
    """Their mode "train" takes whole chunks alone; keelback's takes any length."""
    config = transformers.xLSTMConfig(
        hidden_size=32, num_heads=2, mode=mode, return_last_states=False
    )
    layer = module.xLSTMBackend(config)
    query, key, value = torch.randn(3, 2, 2, length, 16)
    gates = torch.randn(2, 2, 2, length)
    with use_in_transformers():
        ours = layer(query, key, value, *gates)
    if (mode, length) == ("train", 70):
        theirs = layer(query, key, value, *gates, mode="inference")[0]
    else:
        theirs = layer(query, key, value, *gates)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_theirs_refuses_is_refused() -> None:
    config = transformers.xLSTMConfig(hidden_size=32, num_heads=2, mode="train_with_padding")
    layer = module.xLSTMBackend(config)
    with use_in_transformers(), pytest.raises(ValueError, match="return_last_states"):
        layer(*torch.randn(3, 1, 2, 70, 16), *torch.randn(2, 1, 2, 70), return_last_states=True)


def test_states_are_handed_on_in_pieces_and_steps(model: Any) -> None:
    tokens = torch.randint(3, VOCAB, (2, 80))
    names = inspect.signature(model.forward).parameters
    name = next(name for name in ("cache", "cache_params") if name in names)
    with torch.no_grad():
        whole = model(tokens, use_cache=False).logits
        with use_in_transformers():
            cache, found = None, []
            for piece in tokens.split([40, 35, 1, 1, 3], dim=1):
                out = model(piece, **{name: cache}, use_cache=True)
                cache = out[name]
                found.append(out.logits)
    scale = whole.abs().max().item()
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-4 * scale)


def test_in_float64_they_agree_to_what_theirs_keeps(model: Any) -> None:
    """Theirs keeps float32 states in steps, and raises where there are chunks of 64."""
    model = model.double()
    tokens = torch.randint(3, VOCAB, (1, 40))
    with torch.no_grad():
        theirs = model(tokens, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, use_cache=False).logits
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_type_and_comes_as_near(model: Any) -> None:
    tokens = torch.randint(3, VOCAB, (2, 40))
    with torch.no_grad():
        exact = copy.deepcopy(model)(tokens, use_cache=False).logits
        model = model.bfloat16()
        theirs = model(tokens, use_cache=False).logits
        with use_in_transformers():
            ours = model(tokens, use_cache=False).logits
            assert model(tokens.repeat(1, 2), use_cache=False).logits.isfinite().all()
    assert ours.dtype == theirs.dtype
    of_theirs, of_ours = ((one.float() - exact).square().mean() for one in (theirs, ours))
    assert float(of_ours) < 1.5 * float(of_theirs)


def test_layers_are_run_again_for_their_gradients_as_they_ran(model: Any) -> None:
    close(*with_and_without(model.train(), torch.randint(3, VOCAB, (2, 30))))
