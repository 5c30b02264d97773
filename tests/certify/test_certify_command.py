"""Class certificates of trained models, and `keelback certify` from the outside."""

import json
import math
from fractions import Fraction
from pathlib import Path

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keelback.bounds import ClassGrid, clopper_pearson, has_flint, log_output_bound, outward
from keelback.certify import certify_class, logits, measure_constants
from keelback.certify._certification import log10_shown
from keelback.cli.app import main
from keelback.data import get_task
from keelback.errors import InputError
from keelback.models import SelectiveSSMConfig, load_model, matched_baseline, save_model


def model_on_disk(path: Path, **changes: object) -> Path:
    config = SelectiveSSMConfig.model_validate(
        {"vocab_size": 2, "spectral_abscissa": -0.2, **changes}
    )
    model = config.build(torch.Generator().manual_seed(3))
    save_model(model, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return model_on_disk(tmp_path / "model.safetensors")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["certify", *arguments])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


MAJORITY = ("--task", "majority", "--seq-len", "20", "--set", "n_train=150", "--set", "n_test=100")


@pytest.mark.parametrize("n_classes", [2, 5])
def test_measured_constants_bound_the_outputs(tmp_path: Path, n_classes: int) -> None:
    path = model_on_disk(tmp_path / "model.safetensors", n_classes=n_classes, vocab_size=7)
    model = load_model(path)
    c = measure_constants(model, 12, 30)
    tokens = torch.randint(7, (200, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        largest = model(tokens).abs().max().item()
    assert largest <= math.exp(log_output_bound(c))
    assert (c.T, c.m, c.d, c.N) == (12, 30, 4, 4)
    assert c.s_A == pytest.approx(-0.2)
    weight = model.get_parameter("head.weight").detach()
    rows = weight[None] if n_classes == 2 else weight
    assert c.B_w == pytest.approx(rows.norm(dim=1).max().item(), rel=1e-6)


def test_other_architectures_and_bad_weights_are_refused(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    baseline = matched_baseline("lti-ssm", model.config).build()
    with pytest.raises(InputError, match="one selective SSM"):
        measure_constants(baseline, 5, 5)
    with torch.no_grad():
        model.get_parameter("embedding")[0, 0] = math.inf
    with pytest.raises(InputError, match="embedding holds NaN or infinity"):
        measure_constants(model, 5, 5)


def test_class_certificates_pay_for_looking(checkpoint: Path) -> None:
    examples = get_task("majority", seq_len=20, n_train=300).split("train")
    found = certify_class(load_model(checkpoint), examples, delta=0.05)
    assert found.a_posteriori.delta < found.a_priori.delta == 0.05
    outer, inner = found.a_posteriori.constants, found.a_priori.constants
    assert outer == ClassGrid().enclose(inner).constants
    for route, log in found.a_priori.log_risk.items():
        assert log <= found.a_posteriori.log_risk[route] + 1e-9
    assert found.a_priori.log_risk["covering"] <= 0


def test_json_states_every_certificate(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    code, out, err = run(
        capsys, str(checkpoint), *MAJORITY, "--prior-epochs", "2", "--steps", "5", "--draws", "30",
        "--json",
    )  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert all(line.startswith("certify, ") for line in err.splitlines())
    pac_bayes = result["pac_bayes"]
    assert pac_bayes["examples"] + pac_bayes["prior_examples"] == 150
    assert set(pac_bayes["error"]) == set(result["held_out"]) == {"test", "fresh"}
    for held in result["held_out"].values():
        assert held["error"] == held["errors"] / held["examples"] <= held["bound"]
    for name in ("a_priori", "a_posteriori"):
        # The published theorem has fixed tokens: of a trained embedding it says nothing.
        assert set(result[name]["risk"]) == {"sharpened", "covering"}
        assert "published" in result[name]["rademacher"]
    assert "PAC-Bayes" in result["verdict"]
    assert "vacuous" in result["verdict"]
    assert result["constants"]["m"] == 150


def test_held_out_errors_are_those_of_the_checkpoint(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    code, out, _ = run(capsys, str(checkpoint), *MAJORITY, "--no-pac-bayes", "--json")
    result = json.loads(out)
    test = get_task("majority", seq_len=20, n_train=150, n_test=100).split("test")
    decided = logits(load_model(checkpoint), test) > 0
    assert code == 0
    assert result["pac_bayes"] is None
    assert result["held_out"]["test"]["errors"] == int((decided.long() != test.labels).sum())


def test_tables_end_with_the_verdict(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    code, out, _ = run(capsys, str(checkpoint), *MAJORITY, "--no-pac-bayes")
    assert code == 0
    assert out.startswith("The test examples are drawn independently by a program")
    for text in ("Class constants", "No certificate", "Held out", "always answering"):
        assert text in out
    assert "Each of these 6 statements" in " ".join(out.split())
    assert out.count("\n- Held out, for the checkpoint itself, on the ") == 2


def test_each_attempt_pays_and_all_together_have_delta(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    bounds = []
    for attempt in ("1", "2", "7"):
        code, out, _ = run(
            capsys, str(checkpoint), *MAJORITY, "--no-pac-bayes", "--json", "--attempt", attempt
        )
        result = json.loads(out)
        assert code == 0
        share = 0.05 / (int(attempt) * (int(attempt) + 1))
        assert result["delta_after_attempts"] == pytest.approx(share)
        held = result["held_out"]["test"]
        again = outward.clopper_pearson(held["errors"], held["examples"], Fraction("0.05") / (
            int(attempt) * (int(attempt) + 1)
        )) if has_flint() else clopper_pearson(held["errors"], held["examples"], share)  # fmt: skip
        assert held["bound"] == again
        bounds.append(held["bound"])
    assert bounds == sorted(bounds)
    assert sum(1 / (k * (k + 1)) for k in range(1, 10**5)) < 1


def test_without_python_flint_the_numbers_are_close_and_called_approximate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    arguments = (str(checkpoint), *MAJORITY, "--prior-epochs", "1", "--steps", "2", "--draws", "9")
    results = []
    for with_flint in (True, False):
        if with_flint and not has_flint():
            continue
        for module in ("_rounding", "_class_certificate"):
            monkeypatch.setattr(f"keelback.certify.{module}.has_flint", lambda: with_flint)  # noqa: B023
        code, out, _ = run(capsys, *arguments, "--json")
        results.append(json.loads(out))
        assert code == 0
        assert results[-1]["rounding"] == ("outward" if with_flint else "none")
        assert ("Numbers are approximate" in results[-1]["verdict"]) is not with_flint
    for outer in results[:-1]:
        for pick in (
            lambda found: found["pac_bayes"]["error_bound"],
            lambda found: found["held_out"]["fresh"]["bound"],
            lambda found: found["a_posteriori"]["risk"]["sharpened"]["log10"],
            lambda found: found["a_posteriori"]["risk"]["covering"]["log10"],
        ):
            assert pick(outer) == pytest.approx(pick(results[-1]), rel=1e-6)


def test_the_best_constant_answer_is_fixed_by_the_training_split(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    code, out, _ = run(capsys, str(checkpoint), *MAJORITY, "--no-pac-bayes", "--json")
    result = json.loads(out)
    assert code == 0
    train, test = get_task("majority", seq_len=20, n_train=150, n_test=100).train_and_test()
    label = int(2 * train.labels.sum() > len(train))
    constant = result["best_constant"]["test"]
    assert constant["label"] == label
    assert constant["errors"] == int((test.labels != label).sum())
    assert result["statements"] == 6
    assert result["joint_confidence"] == pytest.approx(1 - 6 * 0.05)
    assert result["a_priori"]["is_certificate"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--delta", "0"), "delta = 0"),
        (("--delta", "1.5"), "--delta is 1.5; it should be a number from 0 to 1"),
        (("--prior-share", "1"), "prior_share = 1"),
        (("--set", "n_train"), "is not NAME=VALUE"),
        (("--set", "n_trains=4"), "no setting n_trains"),
        (("--draws", "0", "--prior-epochs", "1"), "--draws"),
        (("--seed", "-1"), "--seed"),
        (("--prior-epochs", "-1"), "--prior-epochs"),
        (("--attempt", "0"), "--attempt"),
        (("--delta", "1e-320", "--no-pac-bayes"), "too small for this class"),
        (("--allow-overlap", "--drop-overlap"), "exclude each other"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, str(checkpoint), *MAJORITY, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_checkpoint_with_nan_is_refused(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    model = load_model(checkpoint)
    with torch.no_grad():
        model.get_parameter("ssm.W_B")[0, 0] = math.nan
    save_model(model, checkpoint)
    code, _, err = run(capsys, str(checkpoint), *MAJORITY)
    assert code == 2
    assert "ssm.W_B holds NaN or infinity" in err


def test_a_model_that_decides_nothing_is_not_certified(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    """Its logits are NaN; as the sign of a number they would all be of one class."""
    model = load_model(checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    save_model(model, checkpoint)
    code, out, err = run(capsys, str(checkpoint), *MAJORITY, "--no-pac-bayes")
    assert (code, out) == (1, "")
    assert "NaN instead of a decision for 100 of 100 examples; nothing is certified" in err


@pytest.mark.shared
def test_reference_majority_checkpoint_is_certified_on_the_data_it_saw(
    capsys: pytest.CaptureFixture[str], shared: Path
) -> None:
    code, out, _ = run(
        capsys, str(shared / "reference/checkpoints/majority_T100_seed1.pth"), "--task", "majority",
        "--seq-len", "100", "--data-seed", "1", "--no-pac-bayes", "--json",
    )  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert result["held_out"]["test"]["error"] == pytest.approx(0.117)
    assert result["held_out"]["test"]["bound"] < 0.14
    assert not result["a_posteriori"]["risk"]["covering"]["vacuous"]
    assert result["a_posteriori"]["risk"]["sharpened"]["vacuous"]


@given(st.one_of(st.just(0.0), st.floats(-1e6, 1e6), st.just(math.inf)))
def test_a_printed_logarithm_is_not_below_the_bound(log: float) -> None:
    with mpmath.workdps(50):
        exact = mpmath.mpf(log) / mpmath.log(10)
        assert mpmath.mpf(log10_shown(log)) >= exact
        assert math.isinf(log) or mpmath.mpf(log10_shown(log)) < exact + mpmath.mpf("0.00011")


@given(st.floats(1e16, 1e300))
def test_a_large_logarithm_is_shown_with_four_digits_and_rounded_up(log: float) -> None:
    with mpmath.workdps(400):
        exact = mpmath.mpf(log) / mpmath.log(10)
        assert exact <= mpmath.mpf(log10_shown(log)) < exact * mpmath.mpf("1.0011")
    assert len(log10_shown(log)) < 12
