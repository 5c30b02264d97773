"""Texts and token files become ids, or an error that says what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from keelback.audit._tokens import (
    ByteTokenizer,
    bundled_text,
    check_tokens,
    has_tokenizer,
    load_tokenizer,
    read_text,
    read_tokens,
)
from keelback.errors import InputError


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    words = {"the": 0, "keel": 1, "holds": 2, "<unk>": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_bytes() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("né") == [110, 0xC3, 0xA9]
    assert [tokenizer.label(t) for t in (110, 0xC3)] == ["n", "0xc3"]


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_tokenizer_file_or_its_folder(tokenizer_file: Path, as_folder: bool) -> None:
    assert has_tokenizer(tokenizer_file.parent)
    tokenizer = load_tokenizer(tokenizer_file.parent if as_folder else tokenizer_file)
    assert tokenizer.encode("the keel holds") == [0, 1, 2]
    assert tokenizer.label(1) == "keel"


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for source in (tmp_path / "tokenizer.json", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no tokenizer can be read"):
            load_tokenizer(source)


def test_the_bundled_text_is_text() -> None:
    text = bundled_text()
    assert text.startswith("CHAPTER I: DISCUSSION AND BED")
    assert len(ByteTokenizer().encode(text)) > 65_536


@pytest.mark.parametrize("suffix", [".txt", ".json", ".npy"])
def test_token_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ids{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([3, 1, 2], dtype=np.uint16))
    else:
        path.write_text(json.dumps([3, 1, 2]) if suffix == ".json" else "3 1\n2\n")
    assert read_tokens(path).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "1 two 3"),
        ("a.json", "{"),
        ("b.json", "[[1, 2], [3, 4]]"),
        ("c.json", "[1.5]"),
        ("d.json", '{"a": 1}'),
        ("e.json", "[" * 100_000),
    ],
)
def test_files_that_hold_no_tokens(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="whole numbers"):
        read_tokens(tmp_path / name)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="whole numbers"):
        read_tokens(tmp_path / "a.npy")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "b").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 2\)"):
        read_text(tmp_path / "b")


def test_ids_outside_the_vocabulary() -> None:
    check_tokens(torch.tensor([0, 60]), 61)
    check_tokens(torch.tensor([0, 10**6]), None)
    with pytest.raises(InputError, match="token 1 is 61; this model's ids are from 0 to 60"):
        check_tokens(torch.tensor([0, 61]), 61)
    with pytest.raises(InputError, match="token 0 is -1"):
        check_tokens(torch.tensor([-1]), None)
