"""Tokens of bytes: against byte-pair encoding written out, and through file and certificate."""

import copy
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_certificate import changed, changes, leaves, refused
from test_coded_model import FEW, small
from test_language import beyond, command, reviews

from keelback.bounds import RATES
from keelback.certify import (
    Alphabet,
    CodedModel,
    CompressionRecipe,
    compress,
    read_coded_model,
    require_alphabet,
)
from keelback.certify._alphabet import OF_BYTES, PIECES
from keelback.certify._compress import run
from keelback.certify._language_losses import UNIT, Stakes, document_losses
from keelback.errors import InputError

pytest.importorskip("tokenizers")
pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
import keelback_check

WORDS = b"the keel keeps the hull upright, and the wind keeps 12 keels 345 days.\n"
VOCAB = 300


@pytest.fixture(scope="module")
def alphabet() -> Alphabet:
    return Alphabet.trained([WORDS * 3, b"keel and hull", bytes(range(256))], VOCAB)


def merged(alphabet: Alphabet, document: bytes) -> list[bytes]:
    """Byte-pair encoding, piece by piece: again and again the first pair of the merges."""
    pairs = [(alphabet.runs[left], alphabet.runs[right]) for left, right in alphabet.merges]
    rank = {pair: number for number, pair in reversed(list(enumerate(pairs)))}
    found = []
    for piece in re.findall(PIECES, document.decode("latin-1")):
        parts = [character.encode("latin-1") for character in piece]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda k: rank.get((parts[k], parts[k + 1]), 1e9))
            if (parts[best], parts[best + 1]) not in rank:
                break
            pair, at, joined = (parts[best], parts[best + 1]), 0, []
            while at < len(parts):
                together = tuple(parts[at : at + 2]) == pair
                joined.append(b"".join(pair) if together else parts[at])
                at += 2 if together else 1
            parts = joined
        found += parts
    return found


def random_documents(count: int) -> list[bytes]:
    draw = random.Random(0)
    made = []
    for _ in range(count):
        size = draw.randint(1, 60)
        made.append(
            draw.choice(
                [
                    bytes(draw.randrange(256) for _ in range(size)),
                    b" ".join(draw.choices(WORDS.split(), k=1 + size // 6)),
                    bytes(draw.choices(b"kehl up\n\x00\x80\xa0\xff 12,.", k=size)),
                ]
            )
        )
    return made


def test_tokens_are_those_of_byte_pair_encoding_written_out(alphabet: Alphabet) -> None:
    assert alphabet.vocab_size == VOCAB
    assert alphabet.runs[:256] == tuple(bytes([byte]) for byte in range(256))
    assert len(set(alphabet.runs)) == VOCAB
    documents = random_documents(300)
    for document, tokens in zip(documents, alphabet.encode(documents), strict=True):
        assert [alphabet.runs[token] for token in tokens] == merged(alphabet, document), document
        assert "".join(re.findall(PIECES, document.decode("latin-1"))) == document.decode("latin-1")
    again = Alphabet.trained([WORDS * 3, b"keel and hull", bytes(range(256))], VOCAB)
    assert again == alphabet
    read = alphabet.joined([b"keel", b"hull"])
    assert b"".join(alphabet.runs[token] for token in read) == b"keel\n\nhull"


def test_bytes_are_an_alphabet_without_merges() -> None:
    assert Alphabet.trained([b"anything"], 256) == OF_BYTES == Alphabet()
    [tokens] = OF_BYTES.encode([bytes(range(256))])
    assert tokens.tolist() == list(range(256))


def test_two_ways_to_one_run_make_one_token() -> None:
    a, b, c = b"abc"
    found = Alphabet(((a, b), (b, c), (256, c), (a, 257)))
    assert found.runs[256:] == (b"ab", b"bc", b"abc")
    assert found.encode([b"abc"])[0].tolist() == [258]


@pytest.mark.parametrize("merges", [((256, 97),), ((97, 98), (97, 257)), ((-1, 97),)])
def test_merges_of_tokens_that_are_not_there_are_refused(merges: Any) -> None:
    with pytest.raises(InputError, match="not there yet"):
        Alphabet(merges)
    with pytest.raises(InputError, match="256 to 65536 tokens, not 70000"):
        Alphabet.trained([b"a"], 70_000)


def test_losses_are_those_of_each_documents_tokens(alphabet: Alphabet) -> None:
    """Against the model run on one window after the other; the width is that of 300 tokens."""
    model = small(vocab_size=VOCAB).eval()
    documents = [WORDS, b"a", b"keel and hull, " * 5]
    stakes = Stakes(2.0**-4, RATES[1], RATES[2], VOCAB)
    assert 0 <= stakes.width - math.log2(VOCAB * 16) <= 2.0**-20
    found = document_losses(
        model, documents, context=8, window=16, stakes=stakes, alphabet=alphabet
    )
    assert found.sizes == [len(own) for own in documents]
    for index, tokens in enumerate(alphabet.encode(documents)):
        assert found.tokens[index] == len(tokens)
        padded = [10] * 8 + tokens.tolist()
        bits = forecast = wealth = errors = 0.0
        for start in range(0, len(tokens), 16):
            read = torch.tensor(padded[start : start + 8 + 16])
            with torch.no_grad():
                logits = run(model, read[None, :-1])[0, 7:].double()
            for row, token in zip(logits, read[8:].tolist(), strict=True):
                p = torch.softmax(row, 0) * (1 - 2**-4) + 2**-4 / VOCAB
                loss, own = -math.log2(p[token]), -float((p * p.log2()).sum())
                bits += loss
                forecast += own
                wealth += math.log1p(RATES[1] * (own - loss) / stakes.width)
                errors += int(p.argmax()) != token
        assert found.bits.loss[index] * UNIT == pytest.approx(bits, abs=1e-3)
        assert found.bits.forecast[index] * UNIT == pytest.approx(forecast, abs=1e-3)
        assert found.bits.log_wealth[index] * UNIT == pytest.approx(wealth, abs=1e-3)
        assert found.errors.loss[index] * UNIT == errors


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    text = [line.encode() for line in reviews(folder / "t.csv", 2, 40).read_text().splitlines()]
    alphabet = Alphabet.trained(text, VOCAB)
    recipe = CompressionRecipe(**{**vars(FEW), "steps": 60, "rank": 1, "bits": 2})
    read = torch.from_numpy(alphabet.joined(text))
    made, _ = compress(
        small(vocab_size=VOCAB), read, recipe, context=8, window=16, alphabet=alphabet
    )
    made.save(folder / "tokens.keelback")
    return folder / "tokens.keelback"


def test_the_merges_are_part_of_the_file(coded: Path) -> None:
    model = read_coded_model(coded)
    assert model.alphabet.vocab_size == VOCAB
    assert model.to_bytes() == coded.read_bytes()
    without = CodedModel(model.header.model_copy(update={"merges": ()}), model.tensors)
    assert len(without.to_bytes()) < coded.stat().st_size


@pytest.mark.parametrize("way", ["code paid for", "held apart"])
def test_a_certificate_over_tokens_is_checked(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path, way: str
) -> None:
    apart = way == "held apart"
    text = reviews(tmp_path / "text.csv", 1, 400 if apart else 600)
    more = ["--training-text", reviews(tmp_path / "other.csv", 2, 10)] if apart else []
    path = tmp_path / "certificate.json"
    code, out, err = command(
        capsys, coded, "--kind", "language", "--text", text, *more, "--certificate", path, "--json",
    )  # fmt: skip
    assert code == 0, err
    found, written = json.loads(out), json.loads(path.read_text())
    assert keelback_check.main([str(path), "--file", str(coded)]) == 0
    assert "ACCEPTED" in capsys.readouterr().out
    measured, bounds = found["measured"], found["statements"]
    assert measured["tokens"] < measured["bytes"]
    assert written["data"]["tokenizer"] == read_coded_model(coded).alphabet.as_dict()
    bits = "token bits along the text"
    assert bounds[bits] > measured["bits_per_byte"]
    evidence = next(own["evidence"] for own in written["statements"] if own["kind"] == bits)
    assert (evidence["tokens"], evidence["bytes"]) == (measured["tokens"], measured["bytes"])
    if apart:
        assert {"token bits of a new document", "token errors in a new document"} <= set(bounds)
    tried = 0
    for place, value in leaves(written):
        if place == ("digest",) or beyond(place):
            continue
        for other in changes(value):
            mutated = changed(written, place, other)
            if json.dumps(mutated) == json.dumps(written):
                continue
            mutated["digest"] = keelback_check.digest(mutated)
            assert refused(mutated), (place, value, other)
            tried += 1
    assert tried >= 100
    for forged in forgeries(written):
        assert refused(forged)


def forgeries(written: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Well-formed certificates that say something else, with sentence and digest made anew."""
    made = []

    def forge(change: Any) -> None:
        other = copy.deepcopy(written)
        for statement in other["statements"]:
            change(statement, other)
            statement["words"], statement["symbols"] = keelback_check.words(statement)
        other["digest"] = keelback_check.digest(other)
        made.append(other)

    def as_bytes(statement: dict[str, Any], other: dict[str, Any]) -> None:
        statement["kind"] = statement["kind"].removeprefix("token ")

    def without_tokenizer(statement: dict[str, Any], other: dict[str, Any]) -> None:
        other["data"].pop("tokenizer", None)

    def fewer_tokens(statement: dict[str, Any], other: dict[str, Any]) -> None:
        if "vocab_size" in statement["evidence"]:
            statement["evidence"]["vocab_size"] -= 1
            other["data"]["tokenizer"]["vocab_size"] = statement["evidence"]["vocab_size"]

    def more_bytes(statement: dict[str, Any], other: dict[str, Any]) -> None:
        if "tokens" in statement["evidence"]:
            statement["evidence"]["bytes"] *= 2

    def more_tokens_than_bytes(statement: dict[str, Any], other: dict[str, Any]) -> None:
        if "tokens" in statement["evidence"]:
            statement["evidence"]["tokens"] = statement["evidence"]["bytes"] + 1

    for change in (as_bytes, without_tokenizer, fewer_tokens, more_bytes, more_tokens_than_bytes):
        forge(change)
    return made


def test_a_file_with_other_merges_is_refused(
    capsys: pytest.CaptureFixture[str], coded: Path, tmp_path: Path
) -> None:
    text, path = reviews(tmp_path / "text.csv", 1, 600), tmp_path / "certificate.json"
    code, _, err = command(
        capsys, coded, "--kind", "language", "--text", text, "--certificate", path
    )
    assert code == 0, err
    written = json.loads(path.read_text())
    written["data"]["tokenizer"]["sha256"] = "0" * 64
    written["digest"] = keelback_check.digest(written)
    path.write_text(json.dumps(written))
    assert keelback_check.main([str(path)]) == 0
    assert keelback_check.main([str(path), "--file", str(coded)]) == 1
    assert "other merges" in capsys.readouterr().out


def test_a_model_over_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(InputError, match=r"the model has 300 tokens; .* 256 bytes"):
        require_alphabet(small(vocab_size=300))
    with pytest.raises(InputError, match="257 tokens of the alphabet"):
        require_alphabet(small(), Alphabet(((97, 98),)))
    assert np.array_equal(Alphabet(((97, 98),)).joined([b"abab"]), [256, 256])
