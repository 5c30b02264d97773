"""Mamba blocks with norms and residuals (Corollary 15): their class, attacked, and certified."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keelback.bounds import (
    Ball,
    ClassConstants,
    ClassGrid,
    Intervals,
    MambaBlockConstants,
    ResidualConstants,
    covered_class,
    outward,
    summarise,
)
from keelback.certify import certify_class, read_class
from keelback.cli.app import main
from keelback.data import get_task
from keelback.errors import InputError
from keelback.models import MambaClassifierConfig, save_model

T, VOCAB, LAYERS = 6, 5, 2
BLOCKS_OF_ONE = 12
"""W_out, W_g, D, W_in, kappa, beta, W_B, W_C, A, p, q, gamma."""


def classifier(seed: int = 0, *, stream: float = 1.0, **more: Any) -> Any:
    """Weights that differ in size from seed to seed; `stream` scales what the norms read."""
    fields = {"vocab_size": VOCAB, "d_model": 4, "d_state": 2, "n_layers": LAYERS, **more}
    model = MambaClassifierConfig.model_validate(fields).build(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 50)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if not name.endswith("A_log"):
                tensor.mul_(0.5 + 2 * torch.rand((), generator=generator))
            if name.endswith("delta_bias"):
                tensor.add_(4.0)
        model.backbone.embedding.mul_(stream)
        for block in model.backbone.blocks:
            block.W_out.mul_(stream)
    return model.double()


def tokens_of(seed: int, rows: int = 32) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, T), generator=torch.Generator().manual_seed(seed + 100))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("stream", [1e-6, 1.0, 1e3])
def test_no_logit_is_above_the_output_bound(classes: int, stream: float) -> None:
    for seed in range(6):
        model = classifier(seed, stream=stream, n_classes=classes)
        bound, _ = covered_class(read_class(model, T, 100), classes=classes, vocab_size=VOCAB)
        assert math.log(float(model(tokens_of(seed)).detach().abs().max())) <= bound.log_bound


def spectral(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def nuclear(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord="nuc"))


def moves(model: Any) -> list[tuple[int, float]]:
    """Places among the class's blocks, and to first order how far each can move the logit."""
    backbone, head = model.backbone, model.head.weight

    def of_interval(parameter: torch.Tensor) -> float:
        return float(parameter.grad.abs().sum() * parameter.detach().abs().max())  # type: ignore[union-attr]

    found = [
        (0, float(head.grad.norm() * head.detach().norm())),
        (1, of_interval(backbone.last_norm.weight)),
    ]
    for depth, (norm, block) in enumerate(zip(backbone.norms, backbone.blocks, strict=True)):
        at = 2 + BLOCKS_OF_ONE * (LAYERS - 1 - depth)
        into, gate = block.W_in.detach().chunk(2)
        of_into, of_gate = block.W_in.grad.chunk(2)
        maps, of_maps = block.W_x.detach(), block.W_x.grad
        rank, states = block.dt_rank, block.d_state
        for place, matrix, gradient in (
            (0, block.W_out.detach(), block.W_out.grad),
            (1, gate, of_gate),
            (3, into, of_into),
            (6, maps[rank : rank + states], of_maps[rank : rank + states]),
            (7, maps[rank + states :], of_maps[rank + states :]),
        ):
            found.append((at + place, spectral(matrix) * nuclear(gradient)))
        found.append((at + 2, of_interval(block.D)))
        found.append((at + 5, float(block.conv_bias.grad.norm() * block.conv_bias.detach().norm())))
        found.append((at + 11, of_interval(norm.weight)))
    rows = backbone.embedding
    # A token moves every place where it stands: the sum over the vocabulary is one move.
    embedded = float(rows.grad.norm(dim=-1).sum() * rows.detach().norm(dim=-1).max())
    return [*found, (2 + BLOCKS_OF_ONE * LAYERS, embedded)]


@pytest.mark.parametrize("stream", [1e-6, 1e-2, 1.0, 1e3])
def test_no_gradient_is_above_its_reach(stream: float) -> None:
    """For a stream far below the eps of the norms too, where they pass on the most."""
    for seed in range(6):
        model = classifier(seed, stream=stream)
        with torch.no_grad():
            for block in model.backbone.blocks:
                block.conv_bias.add_(0.3)
        constants = read_class(model, T, 100)
        found, _ = covered_class(constants, vocab_size=VOCAB)
        assert len(found.blocks) == 3 + BLOCKS_OF_ONE * LAYERS
        for row in tokens_of(seed, 6):
            model.zero_grad()
            model(row[None]).sum().backward()
            for place, moved in moves(model):
                allowed = found.log_bound + float(found.blocks[place].log_reach)
                assert math.log(max(moved, 1e-300)) <= allowed + 1e-9, place


def test_the_factor_of_a_norm_is_reached() -> None:
    """By a stream far below its eps, where blocks give zero and the gains are one."""
    model = classifier()
    with torch.no_grad():
        model.backbone.embedding.mul_(1e-12)
        model.backbone.last_norm.weight.fill_(1.0)
        for block in model.backbone.blocks:
            block.W_out.zero_()
    found, _ = covered_class(read_class(model, T, 100), vocab_size=VOCAB)
    assert len(found.blocks) == 3  # There is nothing to cover in a block that gives zero.
    model(tokens_of(0, 1)).sum().backward()
    rows = model.backbone.embedding
    moved = float(rows.grad.norm(dim=-1).sum() * rows.detach().norm(dim=-1).max())
    allowed = found.log_bound + float(found.blocks[-1].log_reach)
    assert math.log(moved) == pytest.approx(allowed, abs=1e-9)


def test_the_places_are_what_they_are_taken_for() -> None:
    model = classifier()
    found, _ = covered_class(read_class(model, T, 100), vocab_size=VOCAB)
    d_model, d_inner, d_state, d_conv = 4, 8, 2, 4
    one = [
        *(d_inner * d_model, d_inner * d_model, d_inner, d_inner * d_model, d_inner * d_conv),
        *(d_inner, d_inner * d_state, d_inner * d_state, d_inner * d_state, d_inner, d_inner),
        d_model,
    ]
    sizes = [block.coordinates for block in found.blocks]
    assert sizes == [d_model, d_model, *one, *one, d_model]
    kinds = [type(block) for block in found.blocks[2 : 2 + BLOCKS_OF_ONE]]
    assert [place for place, kind in enumerate(kinds) if kind is Intervals] == [2, 8, 9, 11]


def test_models_of_one_class_differ_by_no_more_than_the_reaches_add_up_to() -> None:
    """Not to first order: all weights moved by a share, within the class."""
    for seed, share in enumerate([1e-4, 1e-2, 0.1, 0.4, 1e-3, 0.2]):
        model = classifier(seed, stream=10.0 ** (seed % 3 - 2))
        found, _ = covered_class(read_class(model, T, 100), vocab_size=VOCAB)
        before = model(tokens_of(seed)).detach()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "A_log" not in name and "delta" not in name and "W_x" not in name:
                    tensor.mul_(1 - share)
        places = [0, 1, 2 + BLOCKS_OF_ONE * LAYERS] + [
            2 + BLOCKS_OF_ONE * depth + own
            for depth in range(LAYERS)
            for own in (0, 1, 2, 3, 4, 5, 11)
        ]
        reaches = [found.log_bound + float(found.blocks[place].log_reach) for place in places]
        allowed = math.log(share) + float(np.logaddexp.reduce(reaches))
        moved = float((model(tokens_of(seed)).detach() - before).abs().max())
        assert math.log(moved) <= allowed


PLAIN = ClassConstants(
    B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1, B_w=1, M_w=1, p_lo=-1,
    p_hi=0, T=50, m=20_000, d=8, N=4,
)  # fmt: skip
BLOCK = MambaBlockConstants(
    PLAIN, B_x=0, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4, B_bias=0, B_D=1
)
STACK = ResidualConstants(
    (BLOCK, replace(BLOCK, B_in=2, B_D=0.5)), gains=(1.0, 1.3), last_gain=0.9, B_e=0.4, B_w=1.5,
    M_w=2.0, eps=1e-5,
)  # fmt: skip


def test_outward_numbers_are_not_below_approximate_ones() -> None:
    pytest.importorskip("flint")
    for own in (STACK, replace(STACK, eps=0.1), replace(STACK, gains=(0.0, 2.0))):
        near, outer = (of(own, delta=0.05, vocab_size=7) for of in (summarise, outward.summarise))
        assert set(outer.log_risk) == {"sharpened", "covering"}
        for route, log in near.log_risk.items():
            assert 0 <= outer.log_risk[route] - log + 1e-12 < 1e-9
        assert outer.log_output_bound >= near.log_output_bound - 1e-12


def test_the_grid_holds_the_class_and_pays_for_it() -> None:
    held = ClassGrid().enclose(STACK, margin=1.5)
    inner, outer = STACK.as_dict(), held.constants.as_dict()
    assert inner.keys() == outer.keys()
    for key, value in inner.items():
        assert outer[key] <= value if key.endswith("p_lo") else outer[key] >= value
    assert outer["eps"] == STACK.eps
    of_a_block = ClassGrid().enclose(BLOCK).log_weight
    assert held.log_weight < 2 * of_a_block


def test_depth_and_small_eps_cost_their_logarithm() -> None:
    """Reaches grow by a factor per block, the output bound not at all."""
    counts = []
    for eps in (1e-5, 1e-3, 1e-1):
        found, _ = covered_class(replace(STACK, eps=eps), vocab_size=7)
        assert found.log_bound == pytest.approx(math.log(1.5 * 2 * 0.9))
        counts.append(found.blocks[-1].log_reach)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] - counts[2] <= 3 * math.log(100) + 1e-9
    deeper = replace(STACK, blocks=STACK.blocks * 3, gains=STACK.gains * 3)
    found, _ = covered_class(deeper, vocab_size=7)
    assert found.log_bound == pytest.approx(math.log(1.5 * 2 * 0.9))
    assert isinstance(found.blocks[-1], Ball)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gains": (1.0,)}, "a gain for each"),
        ({"blocks": (), "gains": ()}, "at least one block"),
        ({"eps": 0.0}, "eps = 0"),
        ({"B_e": math.nan}, "B_e = nan"),
        ({"gains": (1.0, -1.0)}, "gain 2 = -1"),
        ({"blocks": (BLOCK, replace(BLOCK, d_model=5))}, "agree in T, m and d_model"),
    ],
)
def test_constants_that_make_no_class_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(STACK, **changes)


def test_the_class_is_certified() -> None:
    task = get_task("majority", seq_len=T, n_train=60, n_test=20)
    found = certify_class(classifier(vocab_size=2).float(), task.split("train"))
    for certificate in (found.a_priori, found.a_posteriori):
        assert set(certificate.log_risk) == {"sharpened", "covering"}
        assert certificate.log_risk["covering"] <= 0
    broken = classifier()
    with torch.no_grad():
        broken.backbone.norms[1].weight[0] = math.inf
    with pytest.raises(InputError, match=r"norms\.1\.weight holds"):
        read_class(broken, T, 10)


def test_the_command_certifies_a_residual_stack(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_model(classifier(vocab_size=2).float(), checkpoint)
    arguments = ["certify", str(checkpoint), "--task", "majority", "--seq-len", str(T),
                 "--set", "n_train=120", "--set", "n_test=40", "--no-pac-bayes",
                 "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (0, None), capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert set(found["a_posteriori"]["risk"]) == {"sharpened", "covering"}
    assert found["constants"]["eps"] == 1e-5
