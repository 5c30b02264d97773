"""Complex, dense, stacked and full-block models: their classes, certificates and checked files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keelback.bounds import (
    ClassConstants,
    ClassGrid,
    ComplexConstants,
    DenseConstants,
    MambaBlockConstants,
    StackConstants,
    covered_class,
    outward,
    selective_class,
    summarise,
)
from keelback.bounds._sharpened import step_sums
from keelback.certify import certify_class, read_class
from keelback.cli.app import main
from keelback.data import get_task
from keelback.errors import InputError
from keelback.models import (
    ComplexSSM,
    DenseSSM,
    VanillaRNNConfig,
    model_config,
    save_model,
)

pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
import keelback_check

KINDS: dict[str, dict[str, Any]] = {
    "complex-ssm": {"d_model": 3, "d_state": 2, "spectral_abscissa": -0.2},
    "dense-ssm": {"d_model": 3, "d_state": 2, "spectral_abscissa": -0.2},
    "selective-stack": {"d_model": 3, "d_state": 2, "spectral_abscissa": -0.2, "n_layers": 2},
    "mamba-blocks": {"d_model": 3, "d_state": 2, "n_layers": 1},
    "mamba-blocks, two": {"d_model": 3, "d_state": 2, "n_layers": 2},
}
T = 6


def classifier(kind: str, seed: int = 0, **more: Any) -> Any:
    fields = {"kind": kind.split(",")[0], "vocab_size": 5, **KINDS[kind], **more}
    model = model_config(fields).build(torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():  # Steps of about one, and weights that differ in size from seed to seed.
        scale = 0.5 + torch.rand((), generator=torch.Generator().manual_seed(seed))
        for name, tensor in model.named_parameters():
            if "A" not in name.rsplit(".", 1)[-1]:
                tensor.mul_(scale)
    return model


def tokens_of(seed: int, rows: int = 64) -> torch.Tensor:
    return torch.randint(5, (rows, T), generator=torch.Generator().manual_seed(seed + 100))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_no_logit_is_above_the_output_bound(kind: str, classes: int) -> None:
    for seed in range(12):
        model = classifier(kind, seed, n_classes=classes)
        bound, _ = covered_class(read_class(model, T, 100), classes=classes, vocab_size=5)
        assert math.log(float(model(tokens_of(seed)).detach().abs().max())) <= bound.log_bound


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_is_above_its_reach(kind: str) -> None:
    """Of head, embedding and step: the dual norm of the gradient, times the radius, against L R."""
    for seed in range(8):
        model = classifier(kind, seed)
        constants = read_class(model, T, 100)
        found, _ = covered_class(constants, vocab_size=5)
        for row in tokens_of(seed, 8):
            model.zero_grad()
            model(row[None]).sum().backward()
            head = model.head.weight
            of_head = float(head.grad.norm() * head.detach().norm())
            assert math.log(of_head) <= found.log_bound + float(found.blocks[0].log_reach) + 1e-9
            of_tokens = float(model.embedding.grad.norm(dim=-1).sum())
            radius = float(model.embedding.detach().norm(dim=-1).max())
            reach = found.log_bound + float(found.blocks[-1].log_reach)
            # A token moves every place where it stands: the sum over the vocabulary is one move.
            assert math.log(of_tokens * radius) <= reach + 1e-9


def test_matrices_of_the_lower_block_move_the_output_by_no_more_than_their_reach() -> None:
    for seed in range(12):
        model = classifier("mamba-blocks, two", seed)
        found, _ = covered_class(read_class(model, T, 100), vocab_size=5)
        lower = model.mixer.blocks[0]
        for row in tokens_of(seed, 8):
            model.zero_grad()
            model(row[None]).sum().backward()
            into, gate = lower.W_in.detach().chunk(2)
            of_into, of_gate = lower.W_in.grad.chunk(2)
            for place, matrix, gradient in (
                (11, lower.W_out.detach(), lower.W_out.grad),
                (12, gate, of_gate),
                (14, into, of_into),
            ):
                size = float(torch.linalg.matrix_norm(matrix, ord=2))
                moved = size * float(torch.linalg.matrix_norm(gradient, ord="nuc"))
                block = found.blocks[place]
                assert block.coordinates == matrix.numel()
                assert math.log(moved) <= found.log_bound + float(block.log_reach) + 1e-9


@pytest.mark.parametrize("kind", ["complex-ssm", "dense-ssm"])
def test_states_and_steps_move_the_output_by_no_more_than_their_sums(kind: str) -> None:
    for seed in range(30):
        model = classifier(kind, seed)
        with torch.no_grad():
            if isinstance(model.mixer, ComplexSSM):
                model.mixer.A_imag.mul_(1 + seed)
            else:
                turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
                model.mixer.A.add_(3 * (seed % 4) * turn)
        constants = read_class(model, T, 100)
        assert isinstance(constants, ClassConstants)
        sums = step_sums(constants)
        log_b = covered_class(constants)[0].log_bound
        for row in tokens_of(seed, 8):
            model.zero_grad()
            model(row[None]).sum().backward()
            own = model.mixer
            of_step = abs(float(own.p.grad))
            assert math.log(of_step) <= log_b + math.log1p(math.exp(sums.log_relative)) + 1e-9
            if isinstance(own, DenseSSM):
                of_states = float(torch.linalg.matrix_norm(own.A.grad, ord="nuc").sum())
                assert math.log(of_states) <= log_b + sums.log_absolute + 1e-9
            else:
                for part in (own.A_real, own.A_imag):
                    moved = float(part.grad.abs().sum())
                    assert math.log(moved) <= log_b + sums.log_absolute + 1e-9


def test_the_step_of_a_turning_state_needs_the_new_term() -> None:
    """Proposition 10's family: what the plain class allows is exceeded, the dense one holds."""
    omega, s = 60.0, 1.0
    model = classifier("dense-ssm", d_model=1)
    with torch.no_grad():
        model.embedding.fill_(1.0)
        model.head.weight.fill_(1.0)
        own = model.mixer
        own.A.copy_(torch.tensor([[[-s, -omega], [omega, -s]]]))
        own.q.zero_()
        own.p.fill_(math.log(math.expm1(0.5)))
        own.W_B.copy_(torch.tensor([[1.0], [0.0]]))
        # C is the image of B under the turn of A e^{A / 2}.
        image = own.A[0] @ torch.linalg.matrix_exp(0.5 * own.A[0]) @ own.W_B
        own.W_C.copy_(image / image.norm())
    model(torch.zeros(1, 2, dtype=torch.int64)).sum().backward()
    constants = read_class(model, 2, 100)
    assert isinstance(constants, DenseConstants)
    plain = ClassConstants(**{k: v for k, v in vars(constants).items() if k != "dense"})
    moved = math.log(abs(float(model.mixer.p.grad)))
    log_b = covered_class(constants)[0].log_bound
    assert moved > log_b + math.log1p(math.exp(step_sums(plain).log_relative))
    assert moved <= log_b + math.log1p(math.exp(step_sums(constants).log_relative))


PLAIN = ClassConstants(
    B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1, B_w=1, M_w=2, p_lo=-1,
    p_hi=0, T=50, m=20_000, d=8, N=4,
)  # fmt: skip
BLOCK = MambaBlockConstants(
    PLAIN, B_x=1, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4, B_bias=0, B_D=1
)
OTHERS: dict[str, Any] = {
    "complex": ComplexConstants(**vars(PLAIN), omega=3.0),
    "dense": DenseConstants(**vars(PLAIN)),
    "stack": StackConstants((PLAIN, replace(PLAIN, B_B=2, M_B=3))),
    "block": BLOCK,
    "two blocks": StackConstants((BLOCK, replace(BLOCK, B_in=2, B_D=0.5))),
}


def test_special_cases_are_the_plain_class() -> None:
    plain = selective_class(PLAIN, vocab_size=7, classes=3)
    block, _ = covered_class(BLOCK, vocab_size=7, classes=3)
    found, _ = covered_class(StackConstants((BLOCK,)), vocab_size=7, classes=3)
    assert found.log_bound == pytest.approx(block.log_bound, abs=1e-12)
    assert found.log_rademacher(100) == pytest.approx(block.log_rademacher(100), rel=1e-12)
    for other in (ComplexConstants(**vars(PLAIN), omega=0.0), StackConstants((PLAIN,))):
        found, _ = covered_class(other, vocab_size=7, classes=3)
        assert found.log_bound == plain.log_bound
        assert found.log_rademacher(100) == plain.log_rademacher(100)


@pytest.mark.parametrize("name", OTHERS)
def test_outward_numbers_are_not_below_approximate_ones(name: str) -> None:
    own = OTHERS[name]
    near, outer = (of(own, delta=0.05, vocab_size=7) for of in (summarise, outward.summarise))
    assert set(outer.log_risk) == {"sharpened", "covering"}
    for route, log in near.log_risk.items():
        assert 0 <= outer.log_risk[route] - log + 1e-12 < 1e-9
    assert outer.log_output_bound >= near.log_output_bound - 1e-12


@pytest.mark.parametrize("name", OTHERS)
def test_the_grid_holds_every_kind_of_class(name: str) -> None:
    own = OTHERS[name]
    held = ClassGrid().enclose(own, margin=1.5)
    assert type(held.constants) is type(own)
    inner, outer = own.as_dict(), held.constants.as_dict()
    assert inner.keys() == outer.keys()
    for key, value in inner.items():
        assert outer[key] <= value if key.endswith("p_lo") else outer[key] >= value
    assert math.exp(held.log_weight) < 1
    alone = ClassGrid().enclose(PLAIN, margin=1.5)
    assert held.log_weight < alone.log_weight or name == "dense"


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_is_certified(kind: str) -> None:
    task = get_task("majority", seq_len=T, n_train=60, n_test=20)
    model = classifier(kind, vocab_size=2).float()
    found = certify_class(model, task.split("train"))
    for certificate in (found.a_priori, found.a_posteriori):
        assert set(certificate.log_risk) == {"sharpened", "covering"}
        assert certificate.log_risk["covering"] <= 0
    assert found.a_priori.log_risk["sharpened"] < found.a_posteriori.log_risk["sharpened"]


def test_other_architectures_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="not VanillaRNN"):
        read_class(VanillaRNNConfig(vocab_size=2).build(), T, 10)
    broken = classifier("complex-ssm")
    with torch.no_grad():
        broken.mixer.A_imag[0, 0] = math.nan
    with pytest.raises(InputError, match=r"mixer.A_imag holds NaN"):
        read_class(broken, T, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_certifies_and_the_checker_accepts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    checkpoint, path = tmp_path / "model.safetensors", tmp_path / "certificate.json"
    save_model(classifier(kind, vocab_size=2).float(), checkpoint)
    arguments = ["certify", str(checkpoint), "--task", "majority", "--seq-len", str(T),
                 "--set", "n_train=120", "--set", "n_test=40", "--steps", "0", "--draws", "5",
                 "--prior-epochs", "1", "--certificate", str(path), "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (0, None), capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert set(found["a_posteriori"]["risk"]) == {"sharpened", "covering"}
    assert found["rounding"] == "outward"
    assert keelback_check.main([str(path), "--file", str(checkpoint)]) == 0
    assert "ACCEPTED" in capsys.readouterr().out
