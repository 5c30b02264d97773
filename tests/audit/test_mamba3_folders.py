"""Folders of mamba_ssm with Mamba-3 layers: read from their tensors and settings alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from newer_layers import HEADS, STATE, WIDTH, HeadNorm, Mamba3, OfFla
from torch import Tensor, nn

from keelback.audit import audit, load_any_model, repair
from keelback.errors import InputError

TOKENS = torch.randint(0, 24, (2, 60), generator=torch.Generator().manual_seed(1))
CONFIG = {"d_model": WIDTH, "n_layer": 2, "vocab_size": 21, "rms_norm": True}
HEAVY = {"layer": "Mamba3", "A_activation": "heavy_tail"}
KINDS = {
    "one input": {},
    "two groups, all pairs, norm": {"groups": 2, "pairs": STATE // 2, "normed": True},
    "three inputs": {"rank": 3},
    "two inputs, two groups, norm": {"rank": 2, "groups": 2, "normed": True},
}


class Published(nn.Module):
    """The model of mamba_ssm, its layers by loops in float64."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.embedding = nn.Embedding(24, WIDTH)  # 21 filled up to a multiple of 8
        self.backbone.layers = nn.ModuleList()
        for layer in layers:
            block = nn.Module()
            block.norm, block.mixer = HeadNorm(WIDTH, WIDTH), layer
            self.backbone.layers.append(block)
        self.backbone.norm_f = HeadNorm(WIDTH, WIDTH)
        self.lm_head = nn.Linear(WIDTH, 24, bias=False)
        self.lm_head.weight = self.backbone.embedding.weight

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        backbone: Any = self.backbone
        x = backbone.embedding(tokens)
        for block in backbone.layers:
            x = x + block.mixer(block.norm(x))
        return self.lm_head(backbone.norm_f(x))


def published(kind: str = "one input", layer: Any = Mamba3) -> Published:
    torch.manual_seed(0)
    return Published([layer(**KINDS[kind]) for _ in range(2)])


def saved(model: nn.Module, folder: Path, ssm_cfg: dict[str, Any], **fields: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "ssm_cfg": ssm_cfg, **fields}))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_loops(kind: str, tmp_path: Path) -> None:
    model = published(kind)
    loaded = load_any_model(saved(model, tmp_path / "m", HEAVY))
    torch.testing.assert_close(loaded.model(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-4)
    assert "Mamba-3 layers of mamba_ssm run in keelback's own code" in loaded.notes[0]


def test_both_ways_to_compute_rates(tmp_path: Path) -> None:
    model = published(layer=OfFla)
    softplus = load_any_model(
        saved(model, tmp_path / "a", {**HEAVY, "A_activation": "softplus", "A_floor": 1e-4})
    )
    torch.testing.assert_close(softplus.model(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-4)
    heavy = load_any_model(saved(model, tmp_path / "b", HEAVY)).model(TOKENS)
    assert not torch.allclose(heavy, model(TOKENS), atol=1e-2)


def test_rates_and_horizons(tmp_path: Path) -> None:
    """By hand: a horizon is one over the mean of step size times rate."""
    folder = saved(published(), tmp_path / "m", {**HEAVY, "A_floor": 0.9})
    loaded = load_any_model(folder)
    result = audit(loaded.model, TOKENS.flatten(), train_length=30, length=120)
    assert result.layers["kind"].to_list() == ["mamba3", "mamba3"]
    assert not result.not_audited
    first: Any = loaded.model.get_submodule("backbone.layers.0")
    with torch.no_grad():
        x = first.norm(loaded.model.get_submodule("backbone.embeddings")(TOKENS.view(1, -1)))
        logits = x @ first.mixer.in_proj.weight.mT
    start = 2 * 32 + 2 * STATE  # behind z, x, B and C
    step, rate = logits[..., start : start + 2 * HEADS].chunk(2, -1)
    rate = torch.where(rate >= 0, 1 + rate, 1 / (1 - rate)).clamp_min(0.9)
    decay = torch.nn.functional.softplus(step + first.mixer.dt_bias.detach()) * rate
    found = result.channels.filter(result.channels["layer"] == 0)["horizon"].to_list()
    assert found == pytest.approx((1 / decay.mean((0, 1))).tolist(), rel=1e-4)


def test_rates_that_no_weight_holds_are_not_edited(tmp_path: Path) -> None:
    loaded = load_any_model(saved(published(), tmp_path / "m", HEAVY))
    with pytest.raises(InputError, match="no weight holds its rates"):
        repair(loaded.model, TOKENS.flatten(), target_length=60, train_length=30)


@pytest.mark.parametrize(
    ("ssm_cfg", "fields", "words"),
    [
        ({"layer": "Mamba3"}, {}, r"nothing in it says how they compute .*ssm_cfg\.A_activation"),
        ({**HEAVY, "A_activation": "relu"}, {}, "is 'relu'; it should be softplus or heavy_tail"),
        ({**HEAVY, "layer": "Mamba2"}, {}, r"ssm_cfg\.layer is 'Mamba2'"),
        ({**HEAVY, "layer": "Mamba4"}, {}, "can be read are Mamba1, Mamba2, Mamba3"),
        ({**HEAVY, "d_state": 16}, {}, r"ssm_cfg\.d_state is 16, and .* 8"),
        ({**HEAVY, "ngroups": 2}, {}, r"ssm_cfg\.ngroups is 2, and .* 1"),
        ({**HEAVY, "rope_fraction": 1.0}, {}, r"ssm_cfg\.rope_fraction is 1\.0, and .* 0\.5"),
        ({**HEAVY, "is_mimo": True}, {}, r"ssm_cfg\.is_mimo is True, and .* False"),
        ({**HEAVY, "d_conv": 4}, {}, r"no setting ssm_cfg\.d_conv"),
        ({**HEAVY, "heads": 4}, {}, r"no setting ssm_cfg\.heads"),
        (HEAVY, {"d_intermediate": 32}, "MLP layers, which keelback's Mamba-3 does not have"),
        (HEAVY, {"rms_norm": False}, "LayerNorm in place of RMSNorm"),
        (HEAVY, {"n_layer": 3}, "tensors are missing, unknown or of another shape"),
    ],
)
def test_what_is_not_known_or_not_said_is_refused(
    ssm_cfg: dict[str, Any], fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        load_any_model(saved(published(), tmp_path / "m", ssm_cfg, **fields))


def test_settings_that_are_used(tmp_path: Path) -> None:
    stated = {
        "d_state": STATE,
        "headdim": 8,
        "expand": 2,
        "ngroups": 2,
        "rope_fraction": 0.5,
        "is_mimo": True,
        "mimo_rank": 2,
        "is_outproj_norm": True,
        "chunk_size": 32,
        "dt_min": 0.001,
        "dt_init_floor": 1e-4,
        "dropout": 0.0,
    }
    model = published("two inputs, two groups, norm")
    loaded = load_any_model(saved(model, tmp_path / "m", {**HEAVY, **stated}))
    torch.testing.assert_close(loaded.model(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-4)


def test_tensors_of_no_number_of_groups(tmp_path: Path) -> None:
    model = published()
    for block in model.backbone.layers:  # type: ignore[union-attr]
        block.mixer.in_proj = nn.Linear(WIDTH, 2 * 32 + 2 * STATE + 3 * HEADS + 3, bias=False)
    with pytest.raises(InputError, match="of no number of groups for 4 heads and 8 states"):
        load_any_model(saved(model, tmp_path / "m", HEAVY))
