"""Certificates that an adversary has changed, the digest and the sentences with them."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_certificate import refused
from test_coded_model import FEW, TEXT, small
from test_language import reviews

from keelback.certify import CompressionRecipe, compress
from keelback.cli.app import main

pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
import keelback_check

Certificate = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coded model and its certificates: with its code paid for, held apart, and drawn."""
    path = tmp_path_factory.mktemp("forged")
    recipe = CompressionRecipe(**{**vars(FEW), "steps": 60, "rank": 1, "bits": 1})
    made, _ = compress(small(), TEXT, recipe, context=8, window=16)
    made.save(path / "small.keelback")
    apart = ["--training-text", reviews(path / "training.csv", 2, 10)]
    text = reviews(path / "text.csv", 1, 360)
    for name, more in {
        "paid": ["--delta", "0.5"],
        "apart": apart,
        "drawn": [*apart, "--draw", 90],
    }.items():
        arguments = [path / "small.keelback", "--kind", "language", "--text", text, *more,
                     "--certificate", path / f"{name}.json"]  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main(["certify", *map(str, arguments)])
        assert stopped.value.code in (0, None)
    return path


def read(path: Path) -> Certificate:
    found: Certificate = json.loads(path.read_text())
    return found


def sealed(certificate: Certificate) -> Certificate:
    """With the sentences, the notices and the digest that the changed content calls for."""
    for statement in certificate["statements"]:
        statement["words"], statement["symbols"] = keelback_check.words(statement)
    certificate["digest"] = keelback_check.digest(certificate)
    return certificate


def smallest_bound(certificate: Certificate, number: int) -> None:
    """What the checker itself would compute: the least bound that the evidence gives."""
    statement = certificate["statements"][number]
    slack = keelback_check.KINDS[statement["kind"]][0]
    delta = keelback_check.Fraction(statement["delta_after_attempts"])

    def holds(bound: float) -> bool:
        with keelback_check.ctx.workprec(256):
            given = keelback_check.Fraction(bound)
            return bool(slack(statement["evidence"], delta, given) >= 0)

    low, high = 0.0, float(statement["evidence"]["width"])
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if holds(middle) else (middle, high)
    statement["bound"] = high


def test_the_tools_of_this_file_forge_what_is_accepted(folder: Path) -> None:
    """Else the tests below would refuse for another reason than the one they are about."""
    for name in ("paid", "apart", "drawn"):
        own = read(folder / f"{name}.json")
        assert sealed(copy.deepcopy(own)) == own
        for number, statement in enumerate(own["statements"]):
            before = statement["bound"]
            smallest_bound(own, number)
            assert math.isclose(statement["bound"], before, rel_tol=1e-11)
        keelback_check.check(sealed(own))


def evidence(number: int, **changes: Any) -> Callable[[Certificate], None]:
    """The evidence of one statement changed, and the bound with it where there is one."""

    def forge(certificate: Certificate) -> None:
        certificate["statements"][number]["evidence"].update(changes)
        try:
            smallest_bound(certificate, number)
        except Exception:
            return

    return forge


def overlap(**changes: Any) -> Callable[[Certificate], None]:
    def forge(certificate: Certificate) -> None:
        certificate["data"]["overlap"]["documents"].update(changes)

    return forge


def text(part: str, **changes: Any) -> Callable[[Certificate], None]:
    return lambda certificate: certificate["data"][part].update(changes)


def every(**changes: Any) -> Callable[[Certificate], None]:
    def forge(certificate: Certificate) -> None:
        for statement in certificate["statements"]:
            statement.update(changes)

    return forge


def code_of_nothing(certificate: Certificate) -> None:
    """The code is not paid for, as if the text were apart from a training text there is not."""
    counted = certificate["data"]["overlap"]["documents"]["counted"]
    certificate["data"]["overlap"]["documents"] = {
        "exact": 0, "near": 0, "within": 0, "drawn": False, "policy": "refuse",
        "population": None, "seed": None, "counted": counted,
    }  # fmt: skip
    certificate["notices"] = [
        "Among the documents there are 0 exact and 0 near copies of training examples and "
        "0 repeated examples."
    ]
    for number, statement in enumerate(certificate["statements"]):
        statement["evidence"]["code_bits"] = 0
        smallest_bound(certificate, number)


def its_own_training_text(certificate: Certificate) -> None:
    code_of_nothing(certificate)
    certificate["data"]["training"] = dict(certificate["data"]["text"])


def attempt_unpaid(certificate: Certificate) -> None:
    for statement in certificate["statements"]:
        statement["delta_after_attempts"] = statement["delta"]


def attempts_half_paid(certificate: Certificate) -> None:
    """The attempt is said to be the third; the shares are those of the first."""
    certificate["attempt"] = 3


def deltas_that_do_not_add_up(certificate: Certificate) -> None:
    certificate["joint_confidence"] = "19/20"


FORGED: dict[str, tuple[str, Callable[[Certificate], object]]] = {
    "ten times the bytes": ("apart", lambda c: evidence(
        0, bytes=10 * c["statements"][0]["evidence"]["bytes"])(c)),
    "one byte more": ("apart", lambda c: evidence(
        0, bytes=c["statements"][0]["evidence"]["bytes"] + 1)(c)),
    "one byte less": ("apart", lambda c: evidence(
        0, bytes=c["statements"][0]["evidence"]["bytes"] - 1)(c)),
    "a negative loss": ("apart", evidence(0, forecast=-5)),
    "a loss that is no whole number": ("apart", evidence(0, forecast=1.5)),
    "a loss that is true": ("apart", evidence(0, forecast=True)),
    "wealth without end": ("apart", evidence(0, log_wealth=10**40)),
    "wealth that the forecasts cannot win": ("apart", lambda c: evidence(
        0, log_wealth=int(2**20 * math.log1p(c["statements"][0]["evidence"]["rate"])
                          * c["statements"][0]["evidence"]["bytes"]))(c)),
    "wealth that is text": ("apart", evidence(0, log_wealth="9" * 40)),
    "losses above the width": ("apart", evidence(2, sum=10**30)),
    "a negative sum": ("apart", evidence(2, sum=-1)),
    "squares that no losses have": ("apart", evidence(2, squares=0)),
    "a width that is too small": ("apart", evidence(0, width=1.0)),
    "a width that is too small, of documents": ("apart", evidence(2, width=4.0)),
    "a smoothing that was not paid for": ("apart", evidence(0, smoothing=0.3, width=9.75)),
    "a rate that was not paid for": ("apart", evidence(0, rate=0.7)),
    "a smaller n-gram width": ("apart", lambda c: evidence(4, width=8.5)(c)),
    "a commonest context that is rare": ("apart", lambda c: evidence(
        4, largest=1, width=8.0056266784668)(c)),
    "an order without end": ("apart", evidence(4, order=10**9)),
    "documents that are not there": ("apart", lambda c: (
        overlap(counted=1000)(c), [own["evidence"].update(examples=1000)
                                    for own in c["statements"]],
        [smallest_bound(c, number) for number in range(len(c["statements"]))])),
    "another number of documents in the text": ("apart", text("text", documents=900)),
    "a smaller text": ("apart", text("text", bytes=900)),
    "the text is the training text": ("apart", lambda c: c["data"]["training"].update(
        sha256=c["data"]["text"]["sha256"])),
    "no training text": ("apart", lambda c: c["data"].update(training=None)),
    "an empty training text": ("apart", text("training", documents=0)),
    "the code forgotten": ("paid", code_of_nothing),
    "the code forgotten, the text called training text": ("paid", its_own_training_text),
    "a shorter code": ("paid", lambda c: (
        overlap(code_bits=9)(c), evidence(0, code_bits=9)(c),
        c.update(notices=["The model may have been trained on these documents: the 9 bits of its "
                          "code are paid for."]))),
    "a training text beside a code": ("paid", lambda c: c["data"].update(
        training={"documents": 1, "bytes": 1, "sha256": "0"})),
    "attempts not paid": ("apart", attempt_unpaid),
    "attempts said and not paid": ("apart", attempts_half_paid),
    "attempt zero": ("apart", lambda c: c.update(attempt=0)),
    "attempt minus one": ("apart", lambda c: c.update(attempt=-1)),
    "shares of delta that do not add up": ("apart", deltas_that_do_not_add_up),
    "a delta of one": ("apart", every(delta="1.0")),
    "a delta below zero": ("apart", every(delta="-0.05")),
    "a delta that takes for ever": ("apart", every(delta="1e-999999999")),
    "a delta with a sentence": ("apart", every(delta="0.05 (in fact 0)")),
    "a delta that is a number": ("apart", every(delta=0.05)),
    "about another distribution": ("apart", every(about="all English text")),
    "about more than it says": ("apart", lambda c: c["statements"][2].update(
        about="the distribution of these documents")),
    "drawn from more than there are": ("drawn", lambda c: (
        overlap(population=201)(c),
        every(about="a document drawn uniformly from the 201 of the text")(c))),
    "drawn without a seed": ("drawn", overlap(seed=None)),
    "a statement along drawn documents": ("apart", lambda c: (
        overlap(population=c["data"]["text"]["documents"], seed=0)(c),
        every(about="these documents")(c))),
    "copies dropped that were counted": ("apart", lambda c: overlap(policy="drop", exact=3)(c)),
    "examples of an unknown name": ("apart", lambda c: c["data"]["overlap"].update(
        {"best examples": c["data"]["overlap"]["documents"]})),
    "a statement of an unknown kind": ("apart", lambda c: c["statements"][0].update(kind="sure")),
    "a statement of a classifier": ("apart", lambda c: c["statements"][2].update(kind="constant")),
    "a bound of another statement": ("apart", lambda c: c["statements"][0].update(
        bound=c["statements"][1]["bound"])),
    "a bound that is infinite": ("apart", every(bound=math.inf)),
    "a bound that is not a number": ("apart", every(bound=math.nan)),
    "a bound that is whole": ("apart", every(bound=3)),
    "another remark": ("apart", every(remark="accepted by everyone")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_certificate_is_refused(folder: Path, name: str) -> None:
    of, forge = FORGED[name]
    certificate = read(folder / f"{of}.json")
    forge(certificate)
    try:
        sealed(certificate)
    except (ValueError, KeyError, TypeError):
        certificate["digest"] = "0"  # What has no digest cannot be sealed either.
    assert refused(certificate)


def checked(path: Path, *more: str) -> int:
    return keelback_check.main([str(path), *more])


def test_a_coded_model_of_another_size_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code's length is what the file says of itself; with the file at hand it is compared."""
    certificate = read(folder / "paid.json")
    certificate["checkpoint"]["bytes"] = 16
    documents = certificate["data"]["overlap"]["documents"]
    documents["code_bits"] = paid = 8 * 16 + 2 * 5 - 1
    certificate["notices"] = [
        f"The model may have been trained on these documents: the {paid} bits of its code are "
        "paid for."
    ]
    for number, statement in enumerate(certificate["statements"]):
        statement["evidence"]["code_bits"] = paid
        smallest_bound(certificate, number)
    path = folder / "short.json"
    path.write_text(json.dumps(sealed(certificate)))
    assert checked(path) == 0, "without the file nobody can know"
    assert "was not looked at" in capsys.readouterr().out
    assert checked(path, "--file", str(folder / "small.keelback")) == 1
    assert "has another size" in capsys.readouterr().out


def test_the_file_of_another_model_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder / "other.keelback"
    shutil.copy(folder / "small.keelback", other)
    assert checked(folder / "apart.json", "--file", str(other)) == 0
    other.write_bytes(other.read_bytes()[:-1] + b"\0")
    capsys.readouterr()
    assert checked(folder / "apart.json", "--file", str(other)) == 1
    assert "is another checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"attempt": 1,', '"attempt": 1, "attempt": 1,', "a key stands twice"),
        ('"sum": ', '"sum": 1, "sum": ', "a key stands twice"),
        ('"attempt": 1,', '"attempt": NaN,', "NaN is no number"),
        ('"attempt": 1,', '"attempt": -Infinity,', "-Infinity is no number"),
        ('"attempt": 1,', f'"attempt": {"9" * 5000},', "malformed"),
        ('"attempt": 1,', '"attempt": 1e999,', "malformed"),
    ],
)
def test_json_that_two_readers_read_differently_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, reason: str
) -> None:
    certificate = json.dumps(read(folder / "apart.json"))
    assert old in certificate
    path = folder / "ambiguous.json"
    path.write_text(certificate.replace(old, new, 1))
    assert checked(path) == 1
    assert reason in capsys.readouterr().out
