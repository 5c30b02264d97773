"""The examples in the docstrings of public names run, and give what they say."""

import doctest
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keelback.plugins import PluginFile, _forget, loaded_plugins
from keelback.registry import Registry, definition

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
api_pages = importlib.import_module("api_pages")

WITHOUT = {"audit": 1, "certify": 1}
"""How many names of a room may still lack an example. The numbers only fall."""
PARSER = doctest.DocTestParser()


def public(room: str) -> dict[str, Any]:
    module = importlib.import_module(f"keelback.{room}")
    return {name: getattr(module, name) for name in api_pages.names_of(room)}


def is_defined(x: object) -> bool:
    """Whether a name is a function or a class: the alias of a type has no docstring of its own."""
    return inspect.isclass(x) or inspect.isroutine(x) or hasattr(x, "__wrapped__")


def documented(room: str) -> dict[str, str]:
    """The docstring of each function and class that has one of its own."""
    found = {name: x for name, x in public(room).items() if is_defined(x)}
    return {name: inspect.getdoc(x) or "" for name, x in found.items()}


@pytest.mark.parametrize("room", api_pages.rooms())
def test_the_examples_of_a_room_hold(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, with the names of its room, `torch` and `np`, in a folder of its own."""
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    known = loaded_plugins()
    for name, text in documented(room).items():
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        names = {**public(room), "torch": torch, "np": np, "__name__": "example"}
        test = PARSER.get_doctest(text, names, f"keelback.{room}.{name}", None, 0)
        runner.run(test, out=said.append)
    forget_examples(known)
    assert not said, "".join(said)


def forget_examples(known: list[PluginFile]) -> None:
    """Take back what examples have registered, which other tests do not expect."""
    for plugin in loaded_plugins():
        if plugin not in known:
            _forget(plugin)
    for registry in Registry.every:
        registry.discard(lambda part: definition(part).__module__ == "example")


@pytest.mark.parametrize("room", api_pages.rooms())
def test_few_names_lack_an_example(room: str) -> None:
    without = [name for name, text in documented(room).items() if not PARSER.get_examples(text)]
    assert len(without) <= WITHOUT.get(room, 0), f"add an example to one of {', '.join(without)}"


@pytest.mark.parametrize("room", api_pages.rooms())
def test_examples_are_shown_as_code(room: str) -> None:
    """On the site, examples under the singular heading would be quotations in prose."""
    for name, text in documented(room).items():
        if PARSER.get_examples(text):
            assert "\nExamples:\n    >>> " in text, name
