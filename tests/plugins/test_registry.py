"""One registry for each kind of part: names, conflicts, and what installed packages offer."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plugin_files import ADAPTER, EXPERIMENT, MODEL, TASK

import keelback
from keelback.audit import find_layers
from keelback.data import TASKS, Split, Task, get_task, register_task
from keelback.errors import InputError, PluginError
from keelback.experiments import EXPERIMENTS, Experiment, get_experiment
from keelback.models import MODELS, model_config, register_model
from keelback.registry import PluginWarning, Registry

Cli = Callable[..., tuple[int, str, str]]
Install = Callable[..., Path]


def test_what_comes_with_keelback_is_there() -> None:
    assert sorted(TASKS) == ["imdb", "listops", "majority"]
    assert "selective-ssm" in MODELS
    assert next(iter(EXPERIMENTS)) == "length-independence"
    assert TASKS["majority"].name == "majority"
    assert TASKS.get("nothing") is None
    with pytest.raises(KeyError):
        TASKS["nothing"]


def test_the_decorators_are_importable_from_the_package() -> None:
    from keelback import load_plugin, register_adapter, register_experiment

    assert keelback.register_task is register_task
    assert keelback.register_model is register_model
    assert all(callable(one) for one in (load_plugin, register_adapter, register_experiment))


def constant_task(name: str = "constant") -> type[Task]:
    class Constant(Task):
        vocab_size = 2
        n_classes = 2

        def split(self, name: str) -> Split:
            ones = torch.ones(3, dtype=torch.int64)
            return Split(ones[:, None], ones, ones)

    Constant.name = name
    return Constant


def test_a_class_in_a_session_may_be_defined_again() -> None:
    first, second = constant_task(), constant_task()
    register_task(first)
    register_task(second)
    assert TASKS["constant"] is second
    assert get_task("constant").split("test").tokens.dtype == torch.int32


@pytest.mark.parametrize("name", ["majority", "", "a b", "x.py", "../up", "-x", None, 3])
def test_names_that_a_task_cannot_have(name: object) -> None:
    with pytest.raises(InputError, match="name"):
        register_task(constant_task(name))  # type: ignore[arg-type]
    assert "majority" in TASKS.registered()
    assert TASKS["majority"].__module__ == "keelback.data.majority"


class NoSplit(Task):
    name = "no-split"
    vocab_size = 2
    n_classes = 2


class NoClasses(Task):
    name = "no-classes"
    vocab_size = 2

    def split(self, name: str) -> Split:
        raise NotImplementedError


class OneClass(NoClasses):
    n_classes = 1


class NoWords(NoClasses):
    vocab_size = 0
    n_classes = 2


class WrongSettings(NoClasses):
    n_classes = 2
    settings_type = dict  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (NoSplit, "lacks split"),
        (NoClasses, "lacks n_classes"),
        (OneClass, "n_classes .* is 1"),
        (NoWords, "vocab_size .* is 0"),
        (WrongSettings, "settings_type"),
        (3, "is no task"),
        (Experiment, "is no task"),
    ],
)
def test_what_is_no_whole_task_is_refused(task: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        register_task(task)  # type: ignore[type-var, arg-type]


GROUPS = {
    "keelback.tasks": "parity = pack:Parity",
    "keelback.models": "bag = pack:BagConfig",
    "keelback.experiments": "squares = pack:Squares",
    "keelback.adapters": "LeakyAdapter = pack:LeakyAdapter",
}
PACKAGE = TASK + MODEL + EXPERIMENT + ADAPTER


def test_a_package_is_imported_when_its_part_is_asked_for(install: Install) -> None:
    install("pack", PACKAGE, GROUPS)
    assert "parity" in TASKS
    assert "parity" in sorted(TASKS)
    assert "pack" not in sys.modules
    with pytest.raises(InputError, match=r"no task 'parety'; .*parity.*did you mean parity"):
        get_task("parety")
    assert "pack" not in sys.modules, "a wrong name imports nothing"
    assert len(get_task("parity", seq_len=3).split("train")) == 40
    assert "pack" in sys.modules
    assert model_config({"kind": "bag", "vocab_size": 3}).d_model == 4
    assert get_experiment("squares").name == "squares"


def test_an_audit_reads_by_the_adapter_of_a_package(install: Install) -> None:
    install("pack", PACKAGE, GROUPS)
    assert get_task("parity", seq_len=2), "imports the package, which registers the rest"
    model = model_config({"kind": "leaky", "vocab_size": 3}).build()
    assert [layer.kind for layer in find_layers(model)] == ["leaky"]


def test_the_commands_of_a_user_with_a_package(
    install: Install, shell: Callable[[str], str]
) -> None:
    install("pack", PACKAGE, GROUPS)
    listed = json.loads(shell("keelback list --json"))
    assert "squares" in listed["experiments"]
    assert "parity" in listed["tasks"]
    assert {"bag", "leaky"} <= set(listed["models"])
    assert "leaky" in listed["adapters"]
    shell("keelback train --task parity --model bag --seq-len 4 --epochs 1 --out run")
    [record] = Path("run/runs").glob("*/run.json")
    made_by = json.loads(record.read_text())["provenance"]["plugins"]
    assert made_by == {"task": "pack 1.2", "model": "pack 1.2"}
    assert "plugins" not in json.loads(record.read_text())["run"], "a version is no configuration"
    shell("keelback evaluate run/runs/* --task parity --seq-len 4")
    numbers = json.loads(shell("keelback reproduce squares --out squares --json --workers 1"))
    assert [row["square"] for row in numbers["rows"]] == [0, 1, 4]
    assert json.loads(shell("keelback report squares --json"))["squares-full"] == numbers


BROKEN = {
    "raises": ("raise OSError('no licence')", "broken.py:1: .*OSError: no licence"),
    "import": ("import nothing_of_this_name", "ModuleNotFoundError"),
    "exit": ("import sys; sys.exit(0)", "SystemExit"),
    "syntax": ("def", "SyntaxError"),
    "absent": ("", "AttributeError"),
    "no part": ("Part = 3", "is no "),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_package_is_named_and_stops_no_one_else(
    install: Install, cli: Cli, fault: str
) -> None:
    source, complaint = BROKEN[fault]
    groups = dict.fromkeys(GROUPS, "broken = broken:Part")
    install("broken", source, groups)
    code, out, err = cli("list", "--json")
    assert code == 0
    assert "majority" in json.loads(out)["tasks"]
    assert len(err.splitlines()) == 4
    assert all("package broken" in line for line in err.splitlines())
    with pytest.raises(PluginError, match=complaint):
        get_task("broken")
    code, out, err = cli("train", "--task", "broken", "--out", "new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "broken" in err
    assert not Path("new").exists()
    code, _, _ = cli("train", "--task", "majority", "--seq-len", "4", "--epochs", "1", "--out", "r")
    assert code == 0
    with pytest.warns(PluginWarning, match="package broken cannot be loaded"):
        layers = find_layers(model_config({"kind": "selective-ssm", "vocab_size": 3}).build())
    assert len(layers) == 1


def test_a_package_cannot_take_the_name_of_a_part_that_is_there(install: Install, cli: Cli) -> None:
    source = TASK.replace('name = "parity"', 'name = "majority"')
    install("pack", source, {"keelback.tasks": "majority = pack:Parity"})
    assert get_task("majority", seq_len=2).__module__ == "keelback.data.majority"
    _, _, err = cli("list")
    assert err == (
        "warning: the task 'majority' of the installed package pack is not used: there is one of "
        "this name, built in\n"
    )


def test_two_packages_with_one_name(install: Install) -> None:
    for package in ("one", "two"):
        install(package, TASK, {"keelback.tasks": f"parity = {package}:Parity"})
    with pytest.raises(PluginError, match="one and two both have a task 'parity'"):
        get_task("parity", seq_len=2)


def test_a_file_cannot_take_the_name_of_an_installed_part(install: Install) -> None:
    install("pack", TASK, {"keelback.tasks": "parity = pack:Parity"})
    Path("mine.py").write_text(TASK)
    with pytest.raises(PluginError, match="already a task named 'parity', of the installed packag"):
        keelback.load_plugin("mine.py")


def test_an_entry_point_of_another_name(install: Install) -> None:
    install("pack", TASK, {"keelback.tasks": "bits = pack:Parity"})
    with pytest.raises(PluginError, match=r"entry point bits .* of another name"):
        get_task("bits", seq_len=2)


def test_a_registry_imports_neither_torch_nor_pydantic() -> None:
    code = "import keelback.registry, keelback.plugins, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pydantic", "numba"} & set(done.stdout.split())


def test_every_kind_of_part_has_a_registry() -> None:
    words = {registry.word for registry in Registry.every}
    assert {"task", "model", "adapter", "experiment", "kind of run"} <= words
