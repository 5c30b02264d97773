"""`keelback bound` from the outside."""

import json
import math
from pathlib import Path

import pytest
from bounds_reference import SMALL

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
        ({}, ("--classes", "1"), "classes = 1"),
        ({}, ("--vocab", "-1"), "vocab_size"),
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
