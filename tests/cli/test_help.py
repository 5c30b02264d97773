"""What every option says of itself: what it is, its unit, its default and an example."""

import re
import subprocess
import sys
from typing import Any

import pytest

from keelback.cli.parameters import Parameter, commands

COMMANDS = commands()
PARAMETERS = [
    pytest.param(parameter, id=f"{command} {parameter.name}")
    for command, parameters in COMMANDS.items()
    for parameter in parameters
]
UNITS = (
    r"[Nn]umber of|[Ss]hare of|in tokens|in seconds|in steps|in training lengths|per unit of time"
    r"|in units of|[Pp]robability|a whole number|[Ss]tandard deviation|[Ss]tep size|loss \(hinge"
)


def test_every_command_is_walked() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "keelback", "--help"], capture_output=True, text=True, check=True
    ).stdout
    sections = shown.split("Commands", 1)[-1]
    named = set(re.findall(r"^  ([a-z][a-z-]*)  ", sections, re.MULTILINE))
    assert named == {name.split()[0] for name in COMMANDS}
    assert sum(map(len, COMMANDS.values())) > 150


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_it_is_a_sentence(parameter: Parameter) -> None:
    assert re.match(r"[A-Z`][^\n]*[^.]\.$", parameter.help), parameter.help


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_numbers_have_a_unit_and_a_range(parameter: Parameter) -> None:
    if parameter.kind in (int, float):
        assert re.search(UNITS, parameter.help), parameter.help
        assert parameter.min is not None


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_the_default_is_shown_or_said(parameter: Parameter) -> None:
    if parameter.default is None:
        assert re.search(r"\bdefaults?\b|no default", parameter.help), parameter.help


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_there_is_an_example_that_the_option_takes(parameter: Parameter) -> None:
    """A default that the help shows is one; else it follows "e.g."."""
    if parameter.flags or parameter.default not in (None, ...):
        return
    [example] = re.findall(r"e\.g\. (.+)\.$", parameter.help)
    taken: Any = parameter.kind(example)
    if parameter.kind in (int, float):
        assert parameter.min is not None
        assert parameter.min <= taken
        assert parameter.max is None or taken <= parameter.max


@pytest.mark.parametrize("command", COMMANDS)
def test_seeds_and_counts_below_their_range_are_refused(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from keelback.cli import main

    for parameter in COMMANDS[command]:
        if parameter.kind is int and parameter.min is not None:
            below = str(int(parameter.min) - 1)
            with pytest.raises(SystemExit) as ended:
                main([*command.split(), f"{parameter.name}={below}"])
            said = capsys.readouterr().err
            assert ended.value.code == 2
            assert said.startswith("error: ")
            assert said.count("\n") == 1
