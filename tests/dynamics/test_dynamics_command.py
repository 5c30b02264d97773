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
    code, out, err = run(capsys, *SMALL, "--json", "--quiet")
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


LOCALITY = ["--data", "locality", "--near", "2", "--far", "5", "--noise", "0", "--json"]


@pytest.mark.parametrize(
    "ways",
    [
        ["--eta-gate", "2", "--eta-out", "20"],
        ["--optimizer", "momentum", "--momentum", "0.5"],
        ["--optimizer", "adam", "--eta-gate", "0.01", "--eta-out", "0.3"],
        ["--schedule", "decaying", "--decay", "10"],
        ["--schedule", "stable", "--eta", "20", "--stability", "0.1"],
    ],
)
@pytest.mark.parametrize("symmetry", ["none", "model"])
def test_ways_to_step_learn_and_get_no_prediction(capsys, ways, symmetry):
    more = ["--width", "20", "--symmetry", symmetry]
    code, out, _ = run(capsys, *SMALL, "--paired", *LOCALITY, *ways, *more)
    assert code == 0
    result = json.loads(out)
    assert result["train_loss"] < 1
    assert result["predicted"] is None
    assert result["conditions"] == []
    if symmetry == "model":
        assert result["projections"]["o_plus"] == result["projections"]["o_minus"]


def test_the_population_learns_locality(capsys):
    """A readable command: no sequence is classified wrongly."""
    ways = [
        "--eta-gate",
        "1",
        "--eta-out",
        "100",
        "--schedule",
        "stable",
        "--readout-scale",
        "0.01",
    ]
    sizes = ["--far", "12", "--length", "20", "--dim", "16", "--epochs", "20000"]
    goal = ["--target", "0.1", "--target-accuracy", "0.99"]
    code, out, _ = run(capsys, *LOCALITY, *sizes, *ways, *goal, "--population")
    assert code == 0
    result = json.loads(out)
    assert result["status"] == "reached"
    assert result["test_accuracy"] == 1
    assert result["test_loss"] < 0.1
    assert result["progress"] < result["epochs"]


def test_without_a_prediction_the_summary_says_why(capsys):
    code, out, _ = run(capsys, *SMALL, "--eta-out", "2")
    assert code == 0
    assert "no prediction: the theorem is about plain gradient descent" in out


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
        (["--samples", "0"], "--samples is 0; it should be a whole number, 2 or more"),
        (["--paired", "--fresh"], "exclude each other"),
        (["--fresh", "--population"], "exclude each other"),
        (["--population"], "locality data without noise"),
        (["--optimizer", "sgd"], "gd, momentum, adam"),
        (["--schedule", "stabel"], "did you mean stable?"),
        (["--symmetry", "gate"], "none, readout, model"),
        (["--eta-gate", "0"], "--eta-gate is 0; it should be a number from 1e-38 to 3.4e+38"),
        (["--eta-out", "-1"], "--eta-out is -1; it should be a number from 1e-38 to 3.4e+38"),
        (["--optimizer", "adam", "--schedule", "stable"], "plain gradient descent"),
        (["--target-accuracy", "2"], "--target-accuracy is 2; it should be a number from 0 to 1"),
        (["--momentum", "1"], "momentum lies"),
        (["--noise", "-1"], "--noise is -1; it should be a number, 0 or more"),
        (["--seed", "-1"], "--seed is -1; it should be a whole number from 0 to"),
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
