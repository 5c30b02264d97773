"""Plugin files: loading, reloading, and files that must be refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_files import ADAPTER, EXPERIMENT, MODEL, TASK

from keelback import load_plugin
from keelback.data import TASKS, get_task
from keelback.errors import InputError, PluginError
from keelback.experiments import EXPERIMENTS
from keelback.models import MODELS

Cli = Callable[..., tuple[int, str, str]]


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_a_file_registers_parts_of_every_kind(cli: Cli) -> None:
    write("all.py", TASK + MODEL + EXPERIMENT + ADAPTER)
    code, out, err = cli("list", "--json", "--plugin", "all.py")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert "parity" in listed["tasks"]
    assert {"bag", "leaky"} <= set(listed["models"])
    assert listed["experiments"]["squares"] == "how large are squares?"
    assert "leaky" in listed["adapters"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--plugin", "parity.py", "list", "--json"),
        ("list", "--plugin", "parity.py", "--json"),
        ("list", "--plugin=parity.py", "--json"),
        ("--plugin", "bag.py", "--plugin", "parity.py", "list", "--json", "--plugin", "bag.py"),
    ],
)
def test_the_option_stands_before_or_after_the_command(
    cli: Cli, arguments: tuple[str, ...]
) -> None:
    write("parity.py", TASK)
    write("bag.py", MODEL)
    code, out, _ = cli(*arguments)
    assert code == 0
    assert "parity" in json.loads(out)["tasks"]
    assert ("bag" in json.loads(out)["models"]) == ("bag.py" in arguments)


def test_every_command_takes_the_option() -> None:
    from keelback.cli.app import app, load_commands

    load_commands()
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    commands = [command for group in groups for command in group.registered_commands]
    assert len(commands) > 15
    for command in commands:
        assert "plugin" in command.callback.__annotations__, command.callback.__name__


def test_a_file_is_run_once_and_again_after_an_edit() -> None:
    write("parity.py", TASK + "open('log', 'a').write('x')\n")
    load_plugin("parity.py")
    first = TASKS["parity"]
    load_plugin("./parity.py")
    assert get_task("parity.py", seq_len=2).name == "parity"
    assert Path("log").read_text() == "x"
    assert TASKS["parity"] is first
    write("parity.py", TASK.replace("default=40", "default=50").replace("Parity(", "Odd("))
    load_plugin("parity.py")
    assert len(get_task("parity", seq_len=2).split("train")) == 50
    assert TASKS["parity"].__qualname__ == "Odd"


def test_a_copy_of_a_file_is_the_same_plugin() -> None:
    write("parity.py", TASK)
    write("copy.py", TASK)
    assert load_plugin("parity.py") is load_plugin("copy.py")


def test_another_file_with_the_same_name_inside_is_refused() -> None:
    write("parity.py", TASK)
    write("other.py", "# another\n" + TASK)
    load_plugin("parity.py")
    with pytest.raises(PluginError, match=r"other.py cannot be loaded: there is already"):
        load_plugin("other.py")
    assert len(get_task("parity", seq_len=2).split("train")) == 40


def test_a_file_may_register_a_class_that_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    write("elsewhere.py", TASK.replace("@register_task\n", ""))
    monkeypatch.syspath_prepend(".")
    write("plugin.py", "import elsewhere, keelback\nkeelback.register_task(elsewhere.Parity)\n")
    load_plugin("plugin.py")
    assert get_task("parity", seq_len=2)


def test_pydantic_finds_the_names_of_a_file_with_postponed_annotations() -> None:
    write("bag.py", "from __future__ import annotations\n" + MODEL)
    load_plugin("bag.py")
    assert MODELS["bag"].model_validate({"vocab_size": 3}).d_model == 4


def test_what_a_file_prints_stays_out_of_the_result(cli: Cli) -> None:
    chatty = TASK.replace("        bits = ", "        print('drawing')\n        bits = ")
    write("parity.py", "print('hello')\n" + chatty)
    code, out, err = cli("train", "--task", "parity.py", "--seq-len", "3", "--epochs", "1",
                         "--out", "run", "--json")  # fmt: skip
    assert code == 0
    assert json.loads(out)["diverged"] is False
    assert "hello" in err
    assert "drawing" in err


FAULTS = {
    "syntax": ("x = (\n", "faulty.py cannot be loaded: SyntaxError"),
    "bytes": ("\0", "faulty.py cannot be loaded: "),
    "name": ("\n\nundefined_name\n", r"NameError: .* \(faulty.py:3\)"),
    "import": ("import nothing_of_this_name\n", r"ModuleNotFoundError.*\(faulty.py:1\)"),
    "exit": ("import sys\nsys.exit(0)\n", r"SystemExit: 0 \(faulty.py:2\)"),
    "deep": ("def f(): f()\nf()\n", "RecursionError"),
    "lines": ("raise ValueError('a\\nb\\x1b[31mc' + 9999 * 'x')\n", r"ValueError: a b \[31mc"),
    "unprintable": (
        "class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd\n",
        r"Odd \(faulty.py:3\)",
    ),
    "nothing": ("x = 1\n", "faulty.py registers nothing"),
    "no class": ("import keelback\nkeelback.register_task(3)\n", r"3 is no task.*faulty.py:2"),
    "half": (TASK + "\nraise OSError\n", "OSError"),
    "built in": (TASK.replace('"parity"', '"majority"'), "already a task named 'majority'"),
    "no model": ("import keelback\nkeelback.register_model(dict)\n", "configuration of a model"),
    "model kind": (MODEL.replace('"bag"', '"rnn"'), "already a model named 'rnn'"),
    "loose": (MODEL.replace("frozen=True, ", ""), "can be changed after it was made"),
    "no build": (MODEL.replace("def build", "def built"), r"lacks a method build\(generator\)"),
    "no mixer": (ADAPTER.replace("def mixer", "def mixed"), r"lacks a method mixer\(generator\)"),
    "no read": (ADAPTER.replace("def read", "def reads"), "LeakyAdapter lacks read"),
    "no kind": (ADAPTER.replace('    kind = "leaky"\n    watched', "    watched"), "lacks kind"),
    "watched": (ADAPTER.replace('("to_step",)', '"to_step"'), "a tuple of names"),
    "no runs": (EXPERIMENT.replace("def runs", "def run"), "Squares lacks runs"),
    "no summary": (EXPERIMENT.replace("    summary", "    summery"), "lacks summary"),
    "all": (EXPERIMENT.replace('"squares"\n', '"all"\n'), "a name other than `all`"),
    "run kind": (EXPERIMENT.replace('"square"', '"training"', 1), "named 'training'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_one_line_and_leaves_nothing(cli: Cli, fault: str) -> None:
    text, complaint = FAULTS[fault]
    known = [*TASKS, *MODELS, *EXPERIMENTS]
    write("faulty.py", text)
    with pytest.raises(PluginError, match=complaint):
        load_plugin("faulty.py")
    assert [*TASKS, *MODELS, *EXPERIMENTS] == known
    code, out, err = cli("train", "--task", "majority", "--plugin", "faulty.py", "--out", "new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: faulty.py")
    assert len(err) < 800
    assert "\x1b" not in err
    assert not Path("new").exists()


def test_files_that_cannot_be_read() -> None:
    Path("folder.py").mkdir()
    for name in ("nowhere.py", "folder.py"):
        with pytest.raises(InputError, match=rf"plugin file {name}"):
            load_plugin(name)


def test_files_that_are_no_task() -> None:
    with pytest.raises(InputError, match=r"there is no task file nowhere.py"):
        get_task("nowhere.py")
    write("empty.py", "")
    with pytest.raises(InputError, match=r"empty.py registers 0 tasks with @register_task"):
        get_task("empty.py")
    write("clash.py", TASK.replace('"parity"', '"majority"'))
    with pytest.raises(InputError, match="there is already a task named 'majority'"):
        get_task("clash.py")
    write("broken.py", "import nothing_of_this_name\n")
    with pytest.raises(InputError, match=r"broken.py cannot be loaded: ModuleNotFoundError"):
        get_task("broken.py")


def test_a_file_of_two_tasks_wants_a_name(cli: Cli) -> None:
    second = TASK.replace("Parity", "Odd").replace('"parity"', '"odd"')
    write("two.py", TASK + second)
    code, _, err = cli("train", "--task", "two.py", "--out", "new")
    assert code == 2
    assert "two.py registers 2 tasks" in err
    assert "load it with --plugin two.py and name one of odd, parity" in err
    code, _, _ = cli("train", "--plugin", "two.py", "--task", "odd", "--seq-len", "3", "--epochs",
                     "1", "--out", "run")  # fmt: skip
    assert code == 0


def test_debug_shows_where_it_went_wrong(cli: Cli) -> None:
    write("faulty.py", "\n1 / 0\n")
    from keelback.cli import main

    with pytest.raises(PluginError) as raised:
        main(["--debug", "list", "--plugin", "faulty.py"])
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero", "."])
def test_a_device_or_a_folder_is_not_read(path: str) -> None:
    """A device may have no end."""
    with pytest.raises(InputError, match=f"the plugin file {path} is not a file"):
        load_plugin(path)
