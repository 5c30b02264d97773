"""`keelback bound` from the outside."""

import json
import math
from pathlib import Path

import mpmath
import pytest
from bounds_reference import SMALL
from test_published_oracle import exact as exact_bounds

from keelback.bounds import published_log_rademacher, summarise
from keelback.cli.app import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["bound", *arguments])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


@pytest.fixture
def constants(tmp_path: Path) -> Path:
    path = tmp_path / "constants.json"
    path.write_text(json.dumps(SMALL.as_dict()))
    return path


def test_json_has_every_bound_by_name(capsys: pytest.CaptureFixture[str], constants: Path) -> None:
    code, out, err = run(
        capsys, "--constants", str(constants), "--json", "--margin", "0.5", "--delta", "0.01"
    )
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["constants"] == SMALL.as_dict()
    names = {
        "published", "sharpened", "lower", "linear_attention", "softmax_attention", "rnn", "lti",
    }  # fmt: skip
    assert set(result["rademacher"]) == names
    assert result["rademacher"]["published"]["log10"] == pytest.approx(
        published_log_rademacher(SMALL) / math.log(10)
    )
    assert set(result["risk"]) == {
        "published", "sharpened", "covering", "margin", "delta", "classes", "confidence_term",
    }  # fmt: skip
    summary = summarise(SMALL, margin=0.5, delta=0.01)
    for name in ("published", "sharpened", "covering"):
        assert result["risk"][name]["value"] == pytest.approx(math.exp(summary.log_risk[name]))
        assert result["risk"][name]["vacuous"] is (summary.log_risk[name] >= 0)
    output = result["output_bound"]
    assert output["value"] == pytest.approx(10 ** output["log10"])


def test_table_names_every_row(capsys: pytest.CaptureFixture[str], constants: Path) -> None:
    code, out, _ = run(capsys, "--constants", str(constants))
    assert code == 0
    for text in ("published", "sharpened", "lower bound", "linear attention", "RNN", "vacuous"):
        assert text in out


def test_numbers_beyond_a_double_have_a_logarithm_and_no_value(
    capsys: pytest.CaptureFixture[str], constants: Path
) -> None:
    far = {**SMALL.as_dict(), "s_A": 1e6, "T": 10**9}
    constants.write_text(json.dumps(far))
    code, out, _ = run(capsys, "--constants", str(constants), "--json")
    output = json.loads(out)["output_bound"]
    assert code == 0
    assert output["value"] is None
    assert output["log10"] > 1e14
    assert run(capsys, "--constants", str(constants))[0] == 0


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"B_u": -1.0}, (), "B_u = -1 is negative"),
        ({"M_q": 0.1}, (), "M_q = 0.1 is smaller than B_q"),
        ({"m": 0}, (), "m = 0 must be a whole number"),
        ({}, ("--delta", "1"), "delta = 1 must lie strictly between 0 and 1"),
        ({}, ("--delta", "0"), "delta = 0"),
        ({}, ("--margin", "0"), "margin = 0"),
        ({}, ("--classes", "1"), "--classes"),
        ({}, ("--vocab", "-1"), "--vocab"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str],
    constants: Path,
    changes: dict[str, float],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    constants.write_text(json.dumps({**SMALL.as_dict(), **changes}))
    code, out, err = run(capsys, "--constants", str(constants), *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_missing_constants_are_named(capsys: pytest.CaptureFixture[str], constants: Path) -> None:
    partial = {key: value for key, value in SMALL.as_dict().items() if key not in ("T", "B_q")}
    constants.write_text(json.dumps(partial))
    code, _, err = run(capsys, "--constants", str(constants))
    assert code == 2
    assert "class constants missing: B_q, T;" in err


@pytest.mark.parametrize("delta", ["1e-320", "5e-324", "1e-300", "0.9999999999999999"])
@pytest.mark.parametrize("with_flint", [True, False])
def test_any_delta_between_zero_and_one_gives_finite_bounds(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    constants: Path,
    delta: str,
    with_flint: bool,
) -> None:
    if with_flint:
        pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
    else:
        monkeypatch.setattr("keelback.bounds.has_flint", lambda: False)
    code, out, err = run(capsys, "--constants", str(constants), "--delta", delta, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["rounding"] == ("outward" if with_flint else "none")
    expected = 3 * math.sqrt((math.log(2) - math.log(float(delta))) / (2 * SMALL.m))
    assert result["risk"]["confidence_term"] == pytest.approx(expected)
    for name in ("published", "sharpened", "covering"):
        assert math.isfinite(result["risk"][name]["log10"])
        assert result["risk"][name]["value"] >= (expected if name != "covering" else 0)


def test_printed_numbers_lie_outside_the_exact_ones(
    capsys: pytest.CaptureFixture[str], constants: Path
) -> None:
    pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
    with mpmath.workdps(60):
        exactly = exact_bounds(SMALL, 60)
        code, out, _ = run(capsys, "--constants", str(constants), "--json")
        result = json.loads(out)
        assert code == 0
        for found, log, above in (
            (result["output_bound"], exactly["output"], True),
            (result["rademacher"]["published"], exactly["published"], True),
            (result["rademacher"]["lower"], exactly["lower"], False),
        ):
            for printed, value in (
                (found["log10"], log / mpmath.log(10)), (found["value"], mpmath.exp(log)),
            ):  # fmt: skip
                assert (printed >= value) is above
                assert printed == pytest.approx(float(value), rel=1e-14)
        code, out, _ = run(capsys, "--constants", str(constants))
        assert code == 0
        assert "rounded up" in out
        rows = {line.split("│")[1].strip(): line.split("│")[2:4] for line in out.splitlines()
                if line.startswith("│")}  # fmt: skip
        log10, shown = map(float, rows["Rademacher, selective SSM, lower bound"])
        assert log10 <= exactly["lower"] / mpmath.log(10) < log10 + 1e-4
        assert shown <= mpmath.exp(exactly["lower"]) < shown * 1.001
        log10, shown = map(float, rows["largest output |z|"])
        assert log10 - 1e-4 < exactly["output"] / mpmath.log(10) <= log10
        assert shown * 0.999 < mpmath.exp(exactly["output"]) <= shown


def test_without_python_flint_the_table_says_that_it_is_approximate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, constants: Path
) -> None:
    monkeypatch.setattr("keelback.bounds.has_flint", lambda: False)
    code, out, _ = run(capsys, "--constants", str(constants))
    assert code == 0
    assert "Approximate, to about ten digits" in out
