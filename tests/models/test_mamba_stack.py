"""The stack of Mamba blocks against the Hugging Face implementation, and its own properties."""

import pytest
import torch
from torch import Tensor

from keelback.models import (
    MambaBackbone,
    MambaBlock,
    MambaClassifierConfig,
    MambaLanguageModel,
    MambaLanguageModelConfig,
)

CONFIG = MambaLanguageModelConfig(vocab_size=11, d_model=20, n_layers=2, d_state=4)


def tokens(batch=3, length=13):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(0))


def make(config=CONFIG) -> MambaLanguageModel:
    model = config.build(torch.Generator().manual_seed(3))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    return model


def hugging_face_weights(model: MambaLanguageModel) -> dict[str, Tensor]:
    backbone = model.backbone
    weights = {
        "backbone.embeddings.weight": backbone.embedding,
        "lm_head.weight": backbone.embedding,
        "backbone.norm_f.weight": backbone.last_norm.weight,
    }
    for i, (norm, block) in enumerate(zip(backbone.norms, backbone.blocks, strict=True)):
        assert isinstance(block, MambaBlock)
        weights |= {
            f"backbone.layers.{i}.norm.weight": norm.weight,
            f"backbone.layers.{i}.mixer.in_proj.weight": block.W_in,
            f"backbone.layers.{i}.mixer.conv1d.weight": block.conv_weight[:, None],
            f"backbone.layers.{i}.mixer.conv1d.bias": block.conv_bias,
            f"backbone.layers.{i}.mixer.x_proj.weight": block.W_x,
            f"backbone.layers.{i}.mixer.dt_proj.weight": block.W_delta,
            f"backbone.layers.{i}.mixer.dt_proj.bias": block.delta_bias,
            f"backbone.layers.{i}.mixer.A_log": block.A_log,
            f"backbone.layers.{i}.mixer.D": block.D,
            f"backbone.layers.{i}.mixer.out_proj.weight": block.W_out,
        }
    return {name: tensor.detach() for name, tensor in weights.items()}


@torch.no_grad()
def test_language_model_is_the_one_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    model = make()
    theirs = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.d_model,
            state_size=CONFIG.d_state,
            num_hidden_layers=CONFIG.n_layers,
            time_step_rank=CONFIG.dt_rank,
            residual_in_fp32=False,
        )
    ).eval()
    theirs.load_state_dict(hugging_face_weights(model))
    expected = theirs(tokens(), use_cache=False).logits
    torch.testing.assert_close(model(tokens()), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_future_does_not_matter():
    model, before = make(), tokens()
    after = before.clone()
    after[:, 8:] = (after[:, 8:] + 1) % 11
    torch.testing.assert_close(model(after)[:, :8], model(before)[:, :8])
    assert not torch.allclose(model(after)[:, 8:], model(before)[:, 8:])


@torch.no_grad()
@pytest.mark.parametrize(("batch", "length"), [(2, 1), (2, 3), (0, 4)])
def test_short_sequences_and_empty_batches(batch, length):
    assert make()(tokens(batch, length)).shape == (batch, length, 11)


def test_step_sizes_start_between_a_thousandth_and_a_tenth():
    config = MambaClassifierConfig(vocab_size=2, d_model=256, n_layers=1)
    block = MambaBackbone(config, torch.Generator().manual_seed(0)).blocks[0]
    assert isinstance(block, MambaBlock)
    steps = torch.nn.functional.softplus(block.delta_bias.detach()).log10()
    assert float(steps.min()) == pytest.approx(-3, abs=0.05)
    assert float(steps.max()) == pytest.approx(-1, abs=0.05)
    assert float(steps.mean()) == pytest.approx(-2, abs=0.1)
    torch.testing.assert_close(block.A[7].detach(), -torch.arange(1.0, 17))


def test_trace_names_the_residual_stream():
    model = MambaClassifierConfig(vocab_size=11, d_model=8, n_layers=3, n_classes=4).build()
    traced = model.trace(tokens())
    assert list(traced) == ["u", "block 1", "block 2", "block 3", "y", "logits"]
    torch.testing.assert_close(traced["logits"], model(tokens()))


def test_gradients():
    config = MambaLanguageModelConfig(vocab_size=5, d_model=3, n_layers=1, d_state=2, d_conv=2)
    model = make(config).double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    sequence = torch.tensor([[0, 3, 1, 4, 4]])

    def logits(*parameters):
        return torch.func.functional_call(
            model, dict(zip(names, parameters, strict=True)), (sequence,)
        )

    assert torch.autograd.gradcheck(logits, parameters)
