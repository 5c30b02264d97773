"""The examples of docs/tasks.md run, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from keelback.data import TASKS, get_task
from keelback.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
EXAMPLES = [(code, output) for code, output in BLOCKS if output]
(TASK_FILE,) = [code for code, output in BLOCKS if not output]


@pytest.fixture
def brackets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keelback.data.task.TASKS", dict(TASKS))
    (tmp_path / "brackets.py").write_text(TASK_FILE, encoding="utf-8")


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_examples_print_what_the_page_says(brackets, code, output):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/tasks.md", "exec"), {"__name__": "example"})
    assert printed.getvalue() == output


def test_the_task_of_the_page(brackets):
    task = get_task("brackets.py", seq_len=12, n_test=200)
    assert get_task("brackets.py", seq_len=12).name == "brackets", "a file may be named again"
    test = task.split("test")
    depth = (1 - 2 * test.tokens).cumsum(1)
    balanced = (depth >= 0).all(1) & (depth[:, -1] == 0)
    assert balanced.long().tolist() == test.labels.tolist()
    with pytest.raises(InputError, match="task brackets: seq_len is 13"):
        get_task("brackets.py", seq_len=13)


def test_files_that_are_no_task(brackets):
    with pytest.raises(InputError, match=r"there is no task file nowhere.py"):
        get_task("nowhere.py")
    Path("empty.py").write_text("")
    with pytest.raises(InputError, match=r"empty.py registers 0 tasks with @register_task"):
        get_task("empty.py")
    Path("clash.py").write_text(TASK_FILE.replace('"brackets"', '"majority"'))
    with pytest.raises(InputError, match="there is already a task named 'majority'"):
        get_task("clash.py")
    Path("broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(InputError, match=r"broken.py cannot be loaded: ModuleNotFoundError"):
        get_task("broken.py")


def test_unknown_tasks():
    with pytest.raises(InputError, match=r"no task 'majorty'; choose one of .*did you mean majori"):
        get_task("majorty")


def test_the_page_names_every_task_and_setting():
    for task in TASKS.values():
        assert f"| `{task.name}` |" in PAGE
        for setting in task.settings_type.model_fields:
            assert f"`{setting}`" in PAGE
