"""The examples of docs/guides/tasks.md run, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from keelback.data import TASKS, get_task
from keelback.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs/guides/tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
EXAMPLES = [(code, output) for code, output in BLOCKS if output]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_examples_print_what_the_page_says(code, output):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/guides/tasks.md", "exec"), {"__name__": "example"})
    assert printed.getvalue() == output


def test_unknown_tasks():
    with pytest.raises(InputError, match=r"no task 'majorty'; choose one of .*did you mean majori"):
        get_task("majorty")


def test_the_page_names_every_task_and_setting():
    for task in TASKS.values():
        assert f"| `{task.name}` |" in PAGE
        for setting in task.settings_type.model_fields:
            assert f"`{setting}`" in PAGE
