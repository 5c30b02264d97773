"""Every Python block of the docs runs as it stands; every command line is one that is accepted."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_lines import parsed
from snippets import (
    PAGES,
    ROOT,
    Block,
    blocks_of,
    commands_in_sentences,
    commands_of,
    name_of,
    python_of,
)

from keelback.cli.usage import usage_message

WITH_PYTHON = [page for page in PAGES if any(block.reason is None for block in python_of(page))]
WITH_COMMANDS = [page for page in PAGES if commands_of(page) or commands_in_sentences(page)]
RUNNER = """
import contextlib, io, json, os, sys
from keelback import load_plugin

results = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Libraries write to it what Python's own redirection does not see.

names, printed = {"__name__": "__main__"}, []
for block in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if block["title"]:
            load_plugin(block["title"])
        else:
            code = "\\n" * (block["line"] - 1) + block["code"]
            exec(compile(code, block["page"], "exec"), names)
    printed.append(said.getvalue())
json.dump(printed, results)
results.close()
"""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Its blocks in their order, with the names of those before; in a process and folder of their
    own. A block that has a title is a file, which is loaded as a plugin. What a block prints is
    what the page shows below it, where it shows something."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    blocks = [block for block in python_of(page) if block.reason is None]
    for block in blocks:
        if block.title is not None:
            (tmp_path / block.title).write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([vars(block) for block in blocks]),
        cwd=tmp_path,
        env={**os.environ, **_one_of_one(blocks)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for block, printed in zip(blocks, json.loads(done.stdout), strict=True):
        if block.output is not None:
            assert printed == block.output, f"{block.page}:{block.line}"


def _one_of_one(blocks: list[Block]) -> dict[str, str]:
    """What torchrun sets, where a page says that it runs under torchrun."""
    if not any("torchrun" in block.code for block in blocks):
        return {}
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    return {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def test_what_is_not_run_is_known() -> None:
    """Each reason, and of how many blocks. A new one is written down here, or the block runs."""
    reasons = Counter(block.reason for page in PAGES for block in blocks_of(page))
    del reasons[None]
    assert reasons == {
        "part of a source file": 2,
        "reads what the commands above write; test_developing_pages.py runs both": 1,
    }


def test_no_block_of_python_hides() -> None:
    """What is found are all fences that say Python, and none is set as plain code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(python_of(page)) == len(re.findall(r"^ *```py", text, re.MULTILINE)), page
        assert not re.search(r"^    (?:import \w+|from \w+ import) ?$", text, re.MULTILINE), page


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_line_of_a_page_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands_of(page):
        assert complaint(line) is None, line
    for line in commands_in_sentences(page):
        found = complaint(line)
        assert found is None or " is missing: " in found, line


def complaint(line: str) -> str | None:
    """What the real command line says of a line; None if it would run it."""
    words = shlex.split(line.partition(" > ")[0], comments=True)
    start = max(place for place, word in enumerate(words) if word == "keelback")
    try:
        parsed(words[start + 1 :])
    except Exception as error:
        if hasattr(error, "ctx"):
            return usage_message(error, words[start + 1 :])
        return str(error) or type(error).__name__
    return None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("keelback audit MODEL --train-lenght 64", "there is no option --train-lenght"),
        ("keelback adit MODEL", "there is no command 'adit'"),
        ("keelback train --seq-len fifty", "--seq-len is 'fifty'; it should be a whole number"),
        ("keelback evaluate --task majority", "CHECKPOINT is missing"),
    ],
)
def test_what_is_not_accepted_is_found(line: str, said: str) -> None:
    assert said in str(complaint(line))


def test_there_are_many_command_lines() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 80
