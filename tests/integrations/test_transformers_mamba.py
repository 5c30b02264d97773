"""Hugging Face's Mamba with keelback's scan in the place of its own loop."""

import pytest
import torch

from keelback.integrations import use_in_transformers

transformers = pytest.importorskip("transformers")


def test_the_logits_are_those_of_their_own_loop_and_the_change_is_undone() -> None:
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config)
    tokens = torch.randint(50, (2, 40))
    theirs = model(tokens).logits
    with use_in_transformers():
        ours = model(tokens).logits
    assert 0 < float((theirs - ours).detach().abs().max()) < 1e-4
    assert torch.equal(model(tokens).logits, theirs)


def test_the_gradients_are_those_of_their_own_loop() -> None:
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=8
    )
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config)
    tokens = torch.randint(50, (2, 20))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    theirs = gradients()
    with use_in_transformers():
        ours = gradients()
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
