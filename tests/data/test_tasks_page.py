"""The page docs/guides/tasks.md names every task and setting; its examples run with those of
all pages."""

from pathlib import Path

import pytest

from keelback.data import TASKS, get_task
from keelback.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs/guides/tasks.md").read_text(encoding="utf-8")


def test_unknown_tasks():
    with pytest.raises(InputError, match=r"no task 'majorty'; choose one of .*did you mean majori"):
        get_task("majorty")


def test_the_page_names_every_task_and_setting():
    for task in TASKS.values():
        assert f"| `{task.name}` |" in PAGE
        for setting in task.settings_type.model_fields:
            assert f"`{setting}`" in PAGE
