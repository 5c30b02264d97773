"""What is no path here: sent to the Hub only if it cannot be a mistyped path, answered at once."""

import time
from pathlib import Path
from typing import Any

import pytest

from keelback.audit import load_any_model, load_tokenizer
from keelback.errors import InputError

hub = pytest.importorskip("huggingface_hub")


def never(*given: Any, **options: Any) -> None:
    pytest.fail(f"the Hub was asked for {given}")


@pytest.mark.parametrize(
    "source",
    [
        "./models/mamba", "../mamba", "/models/mamba", "~/models/mamba", "models/mamba/", "a/b/c",
        "mamba", "modle", "models/mamba.safetensors", "models/step-100.pt", "config.json",
        "a\\b", "", " ", "own/mamba", "-a/b", ".cache/x", "https://example.org/a/b",
    ],
)  # fmt: skip
def test_paths_are_never_sent(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "get_hf_file_metadata", never)
    monkeypatch.setattr(hub, "try_to_load_from_cache", never)
    for load in (load_any_model, load_tokenizer):
        with pytest.raises(InputError, match=r"no such file|holds no|no tokenizer"):
            load(source)


def test_hints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="OWNER/NAME"):
        load_any_model("mamba")
    with pytest.raises(InputError, match="there is a folder own here"):
        load_any_model("own/mamba")


def test_a_hub_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked: list[str] = []

    def unreachable(url: str, timeout: float) -> None:
        asked.append(url)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"the Hub cannot be reached \(Name or service not known"):
        load_any_model("no-such-owner/no-such-model")
    assert time.monotonic() - began < 5
    assert len(asked) == 1
    with pytest.raises(InputError, match="the Hub cannot be reached"):
        load_tokenizer("no-such-owner/no-such-model")
    assert len(asked) == 2


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("keelback.audit._hub._SECONDS", 0.05)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, timeout: time.sleep(5))
    with pytest.raises(InputError, match="no answer within"):
        load_any_model("owner/model")


def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def saying(kind: str) -> Any:
        def ask(url: str, timeout: float) -> None:
            raise type(kind, (Exception,), {})("404 Client Error")

        return ask

    for kind, words in {
        "RepositoryNotFoundError": "the Hub has no owner/model",
        "GatedRepoError": "accept its terms",
        "RemoteEntryNotFoundError": "has no config.json",
    }.items():
        monkeypatch.setattr(hub, "get_hf_file_metadata", saying(kind))
        with pytest.raises(InputError, match=words):
            load_any_model("owner/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "get_hf_file_metadata", never)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        load_any_model("owner/model")
