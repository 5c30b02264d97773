import json

import pytest

from keelback.cli import main

QUICK = ["--epochs", "30", "--samples", "32", "--test-samples", "32", "--length", "10"]
SMALL = [*QUICK, "--dim", "6", "--width", "4"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["dynamics", *arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def test_json_has_the_promised_keys(capsys):
    code, out, err = run(capsys, *SMALL, "--json")
    assert code == 0
    assert err == ""
    result = json.loads(out)
    for key in ("epochs", "train_loss", "test_loss", "test_accuracy", "predicted", "conditions"):
        assert key in result
    for key in ("projections", "cosines"):
        assert isinstance(result[key]["o_plus"], float)
        assert isinstance(result[key]["o_minus"], float)
        assert len(result[key]["irrelevant"]) == 4
    assert result["epochs"] == 30
    assert {check["name"] for check in result["conditions"]} == {
        "width",
        "noise",
        "samples",
        "epochs",
    }
    assert result["bayes_error"]["log10_lower"] <= result["bayes_error"]["log10_upper"] < 0


def test_same_seed_same_numbers(capsys):
    first = run(capsys, *SMALL, "--seed", "3", "--json")[1]
    assert first == run(capsys, *SMALL, "--seed", "3", "--json")[1]
    assert first != run(capsys, *SMALL, "--seed", "4", "--json")[1]


@pytest.mark.parametrize("source", [[], ["--paired"], ["--fresh"]])
def test_locality_prints_a_summary(capsys, source):
    code, out, _ = run(capsys, "--data", "locality", "--near", "2", "--far", "5", *SMALL, *source)
    assert code == 0
    assert "projections" in out
    assert "near >= 2" in out
    assert "censored" in out


def test_divergence_exits_1_with_its_epoch(capsys):
    code, out, err = run(capsys, *SMALL, "--eta", "3e38", "--noise", "5", "--json")
    assert code == 1
    assert json.loads(out)["status"] == "diverged"
    assert "diverged by epoch" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "majorty"], "did you mean majority?"),
        (["--alpha-r", "0.45", "--length", "30"], "not a whole number"),
        (["--alpha-r", "0.1", "--alpha-c", "0.4"], "must exceed"),
        (["--near", "2"], "belong to --data locality"),
        (["--data", "locality", "--alpha-r", "0.4"], "belong to --data majority"),
        (["--data", "locality", "--near", "3", "--far", "40"], "do not fit"),
        (["--width", "51"], "odd widths"),
        (["--dim", "2"], "3 dimensions or more"),
        (["--samples", "0"], "'--samples'"),
        (["--paired", "--fresh"], "exclude each other"),
        (["--noise", "-1"], "'--noise'"),
        (["--seed", "-1"], "'--seed'"),
        (["--noise-family", "cauchy"], "gaussian, student, correlated"),
        (["--mixing", "none"], "identity, orthogonal, gaussian"),
        (["--device", "tpu"], "cpu, cuda"),
        (["--epochs", "many"], "epochs"),
    ],
)
def test_bad_input_exits_2_with_one_line(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
