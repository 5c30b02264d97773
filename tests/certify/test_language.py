"""Certificates of language models: losses, n-grams, statements, the file and its checker."""

import copy
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_certificate import changed, changes, leaves, refused
from test_coded_model import FEW, TEXT, small

from keelback.bounds import RATES, code_length
from keelback.certify import CompressionRecipe, Draw, compress, sample_of
from keelback.certify._compress import run
from keelback.certify._language_losses import UNIT, Stakes, document_losses, token_losses
from keelback.certify._ngrams import NGrams
from keelback.cli.app import main
from keelback.errors import InputError

pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
import keelback_check

STAKES = Stakes(2.0**-4, RATES[1], RATES[2])
DOCUMENTS = [b"the keel keeps the hull upright.", b"a", b"hull upright, hull and keel " * 3]


def test_losses_are_those_of_each_document_alone() -> None:
    """Against the model run on one window after the other, in plain Python."""
    model = small().eval()
    found = document_losses(model, DOCUMENTS, context=8, window=16, stakes=STAKES)
    assert found.sizes == [len(own) for own in DOCUMENTS]
    for index, document in enumerate(DOCUMENTS):
        padded = b"\n" * 8 + document
        bits = forecast = squares = wealth = errors = 0.0
        for start in range(0, len(document), 16):
            read = torch.tensor(list(padded[start : start + 8 + 16]))
            with torch.no_grad():
                logits = run(model, read[None, :-1])[0, 7:].double()
            for row, byte in zip(logits, read[8:].tolist(), strict=True):
                p = torch.softmax(row, 0) * (1 - 2**-4) + 2**-4 / 256
                loss, own = -math.log2(p[byte]), -float((p * p.log2()).sum())
                bits += loss
                forecast += own
                squares += (loss - own) ** 2
                wealth += math.log1p(RATES[1] * (own - loss) / 12)
                errors += int(p.argmax()) != byte
        assert found.bits.loss[index] * UNIT == pytest.approx(bits, abs=1e-3)
        assert found.bits.forecast[index] * UNIT == pytest.approx(forecast, abs=1e-3)
        assert found.bits.squares[index] * UNIT == pytest.approx(squares, abs=1e-2)
        assert found.bits.log_wealth[index] * UNIT == pytest.approx(wealth, abs=1e-3)
        assert found.errors.loss[index] * UNIT == errors


def test_a_prediction_does_not_depend_on_what_comes_after() -> None:
    """To the bit: batches have one shape, whatever follows."""
    model = small().eval()
    arguments: dict[str, Any] = {"context": 8, "window": 16, "stakes": STAKES}
    alone = document_losses(model, DOCUMENTS[:1], **arguments)
    among = document_losses(model, [DOCUMENTS[0], b"something else " * 40], **arguments)
    assert alone.bits.loss[0] == among.bits.loss[0]
    assert alone.bits.log_wealth[0] == among.bits.log_wealth[0]


def test_logits_that_are_no_numbers_predict_uniformly() -> None:
    logits = torch.zeros(3, 256)
    logits[0, 5], logits[1, 7], logits[2, 9] = math.nan, math.inf, 100.0
    found = token_losses(logits, torch.tensor([5, 7, 8]), 2.0**-4)
    assert found.bits.tolist() == pytest.approx([8.0, 8.0, 12.0])
    assert found.forecast[2] < 1.0
    assert found.wrong.tolist()[2] is True


def test_ngram_models_count_and_smooth() -> None:
    model = NGrams.of(2, [b"abab", b"b"])
    assert model.counts[ord("a"), ord("b")] == 2
    assert model.counts[ord("\n"), ord("a")] == model.counts[ord("\n"), ord("b")] == 1
    [mean] = model.means([b"ab"])
    value = (math.log2(258 / 2) + math.log2(258 / 3)) / 2
    assert value <= mean * UNIT <= value + 3 * UNIT
    for order in (1, 2, 3):
        own = NGrams.of(order, [b"the keel", b"x"])
        chances = (own.counts + 1) / (own.counts.sum(1, keepdims=True) + 256)
        assert np.allclose(chances.sum(1), 1)
        assert own.means([bytes([0, 255])])[0] * UNIT <= own.width
    with pytest.raises(InputError, match="order = 4"):
        NGrams.of(4, [b"a"])


def test_copies_are_refused_dropped_or_allowed() -> None:
    own = [b"a review that nobody else has written", b"seen before, word by word, by the model"]
    other = b"and a third one with its own words"
    training = [own[1]]
    with pytest.raises(InputError, match="1 exact and 0 near copies"):
        sample_of([*own, other], training=training)
    dropped = sample_of([*own, other], training=training, policy="drop")
    assert list(dropped.documents) == [own[0], other]
    assert dropped.notice().startswith("Left out of the documents: 1 exact")
    allowed = sample_of([*own, other], training=training, policy="allow")
    assert allowed.notice().startswith("WARNING")
    with pytest.raises(InputError, match="length of a code"):
        sample_of(own)
    with pytest.raises(InputError, match="fewer than two documents"):
        sample_of(own, training=own, policy="drop")


def test_documents_are_drawn_independently_from_those_that_are_no_copies() -> None:
    own = [b"number %d of the documents, with words of its own: %d" % (k, k**7) for k in range(50)]
    found = sample_of(own, training=own[:10], policy="drop", draw=4000, seed=5)
    assert found.draw == Draw(40, 5)
    counts = np.array([found.documents.count(document) for document in own])
    assert not counts[:10].any()
    expected, least, most = 100, 55, 150  # Five standard deviations of a binomial count.
    assert (counts[10:] >= least).all()
    assert (counts[10:] <= most).all()
    assert counts.sum() == 40 * expected
    first, again = (sample_of(own, training=[b"x"], draw=9, seed=s).documents for s in (0, 0))
    assert first == again
    assert first != sample_of(own, training=[b"x"], draw=9, seed=1).documents
    with pytest.raises(InputError, match="apart from the training"):
        sample_of(own, code_bits=9, draw=9)
    with pytest.raises(InputError, match="two documents or more"):
        sample_of(own, training=[b"x"], draw=1)


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("language") / "small.keelback"
    recipe = CompressionRecipe(**{**vars(FEW), "steps": 60, "rank": 1, "bits": 2})
    made, _ = compress(small(), TEXT, recipe, context=8, window=16)
    made.save(path)
    return path


def reviews(path: Path, seed: int, count: int) -> Path:
    draw = np.random.default_rng(seed)
    words = ["the", "keel", "keeps", "hull", "upright", "a", "wind", "of", "no", "mast"]
    lines = ["text,label"]
    for row in range(count):
        lines.append(f"{' '.join(draw.choice(words, 30))} {row} {seed},{row % 2}")
    path.write_text("\n".join(lines) + "\n")
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["certify", *map(str, arguments)])
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.mark.parametrize("way", ["code paid for", "held apart", "drawn"])
def test_the_command_writes_what_the_checker_accepts(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path, way: str
) -> None:
    apart, drawn = way != "code paid for", way == "drawn"
    text = reviews(tmp_path / "text.csv", 1, 60 if apart else 400)
    training = reviews(tmp_path / "training.csv", 2, 10)
    more = ["--training-text", training] if apart else []
    if drawn:
        more += ["--draw", 60, "--seed", 3]
    path = tmp_path / "certificate.json"
    code, out, err = command(
        capsys, coded, "--kind", "language", "--text", text, *more, "--certificate", path,
        "--attempt", 2, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    written = json.loads(path.read_text())
    assert keelback_check.main([str(path), "--file", str(coded)]) == 0
    said = capsys.readouterr().out
    assert "ACCEPTED" in said
    measured = found["measured"]
    sizes = [len(line.rsplit(",", 1)[0]) for line in text.read_text().splitlines()[1:]]
    grams = {
        f"{own['evidence']['order']}-gram"
        for own in written["statements"]
        if own["kind"] == "n-gram"
    }
    assert bool(grams) is apart
    if drawn:
        assert set(found["statements"]) == {
            "bits of a new document", "errors in a new document", *grams,
        }  # fmt: skip
        assert "a document drawn uniformly from the 60 of the text, the expected" in said
        assert written["data"]["overlap"]["documents"]["population"] == 60
        assert measured["documents"] == 60
    elif apart:
        assert measured["bytes"] == sum(sizes)
        assert "taken to be independent draws from it, the expected loss" in said
        assert set(found["statements"]) == {
            "bits along the text", "errors along the text", "bits of a new document",
            "errors in a new document", *grams,
        }  # fmt: skip
        assert found["statements"]["bits along the text"] > measured["bits_per_byte"]
        assert found["statements"]["bits of a new document"] > measured["bits_per_byte"] - 0.2
        assert written["statements"][0]["delta_after_attempts"] == "1/120"
    else:
        assert measured["bytes"] == sum(sizes)
        assert written["notices"][0].startswith("The model may have been trained on these")
        for own in written["statements"]:
            assert own["evidence"]["code_bits"] == code_length(coded.stat().st_size)

    tried = 0
    for place, value in leaves(written):
        if place == ("digest",):
            continue
        for other in changes(value):
            mutated = changed(written, place, other)
            if json.dumps(mutated) == json.dumps(written):
                continue
            assert refused(mutated), (place, other)
            tried += 1
            if beyond(place):
                continue
            mutated["digest"] = keelback_check.digest(mutated)
            assert refused(mutated), (place, value, other)
    assert tried >= 200


def beyond(place: tuple[Any, ...]) -> bool:
    """What no recomputation can see: only the digest, the file or the data speak of it."""
    if place[0] == "checkpoint":
        return True
    if place[0] == "data":
        return place[1] != "overlap" or place[-1] in ("near", "seed")
    return place[0] == "code"


def test_a_code_that_is_said_to_be_shorter_is_refused(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path
) -> None:
    path = tmp_path / "certificate.json"
    text = reviews(tmp_path / "text.csv", 1, 400)
    code, _, err = command(
        capsys, coded, "--kind", "language", "--text", text, "--certificate", path, "--delta", "0.5"
    )
    assert code == 0, err
    written = json.loads(path.read_text())
    assert written["statements"], "the bound says something"
    keelback_check.check(written)
    other = copy.deepcopy(written)
    for own in other["statements"]:
        own["evidence"]["code_bits"] = 0
    other["data"]["overlap"]["documents"]["code_bits"] = 1
    other["digest"] = keelback_check.digest(other)
    assert refused(other)
    assert Fraction(written["joint_confidence"]) == 1 - len(written["statements"]) * Fraction(1, 2)


def test_a_code_that_is_too_long_for_the_text_certifies_nothing(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path
) -> None:
    path, text = tmp_path / "certificate.json", reviews(tmp_path / "text.csv", 1, 5)
    code, _, err = command(
        capsys, coded, "--kind", "language", "--text", text, "--certificate", path
    )
    assert code == 1
    assert "bits of code are too many" in err
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs --text FILE"),
        (("--text", "TEXT", "--task", "majority"), "--task has no effect beside --kind language"),
        (("--text", "TEXT", "--data-seed", "0"), "--data-seed has no effect beside"),
        (("--text", "TEXT", "--seed", "3"), "--seed has no effect beside --kind language"),
        (("--text", "TEXT", "--draws", "10"), "--draws has no effect beside --kind language"),
        (("--text", "TEXT", "--no-pac-bayes"), "--no-pac-bayes has no effect beside"),
        (("--text", "TEXT", "--drop-overlap"), "without --training-text"),
        (("--text", "missing.txt"), "missing.txt"),
        (("--text", "TEXT", "--training-text", "TEXT"), "copies of training examples"),
        (("--text", "TEXT", "--first", "0"), "--first"),
        (("--text", "TEXT", "--draw", "9"), "--draw needs --training-text"),
        (("--text", "TEXT", "--training-text", "TEXT", "--draw", "1"), "--draw"),
        (("--text", "TEXT", "--device", "tpu"), "device is 'tpu'; it should be one of cpu, cuda"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path, arguments: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    text = reviews(tmp_path / "text.csv", 1, 5)
    given = [str(text) if own == "TEXT" else own for own in arguments]
    code, out, err = command(capsys, coded, "--kind", "language", *given)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_text_belongs_to_the_kind_language(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path
) -> None:
    text = reviews(tmp_path / "text.csv", 1, 5)
    code, _, err = command(capsys, coded, "--task", "majority", "--text", text)
    assert code == 2
    assert "--text has no effect beside --kind task" in err
    code, _, err = command(capsys, coded, "--task", "majority", "--device", "cpu")
    assert code == 2
    assert "--device has no effect beside --kind task" in err
    code, _, err = command(capsys, text, "--kind", "language", "--text", text)
    assert code == 2
    assert "not a coded model of keelback" in err
    code, _, err = command(capsys, coded)
    assert code == 2
    assert "--task is missing" in err
