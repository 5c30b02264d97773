"""The pages for developers, followed as a reader does: save each file, type each command."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs/developing"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
WITH_FILES = ["adapter.md", "experiment.md", "model.md", "task.md"]


def text_of(page: str) -> str:
    return (FOLDER / page).read_text(encoding="utf-8")


def save_files(page: str) -> list[str]:
    """Write the files that a page shows into the working directory."""
    found = re.findall(r'```python title="(.*?)"\n(.*?)```', text_of(page), flags=re.DOTALL)
    for name, code in found:
        Path(name).write_text(code, encoding="utf-8")
    return [name for name, _ in found]


def commands_of(page: str) -> list[str]:
    return re.findall(r"^    ((?:keelback|yes) .*)$", text_of(page), flags=re.MULTILINE)


def test_there_is_a_page_for_each_kind_of_part() -> None:
    assert sorted(PAGES) == sorted(
        [*WITH_FILES, "operators.md", "plugins.md", "rebuild.md", "release.md"]
    )
    for page in WITH_FILES:
        assert f"({page})" in text_of("plugins.md")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_FILES)
def test_the_file_and_the_commands_of_a_page(page: str, shell: Callable[[str], str]) -> None:
    assert len(save_files(page)) == 1
    commands = commands_of(page)
    assert len(commands) >= 3
    printed = {command: shell(command) for command in commands}
    EXPECTED[page](printed)
    examples = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", text_of(page), flags=re.DOTALL
    )
    for code, output in examples:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, page, "exec"), {"__name__": "example"})
        assert said.getvalue() == output


def of_task(printed: dict[str, str]) -> None:
    by_name = {command.split()[1]: out for command, out in printed.items()}
    assert float(by_name["evaluate"]) > 0.95, "the model of the page learns the task"
    assert "Held out, for the checkpoint itself" in " ".join(by_name["certify"].split())
    assert Path("sweep/report/report.html").exists()


def of_model(printed: dict[str, str]) -> None:
    trained, scored, listed = printed.values()
    assert re.match(r"train 0\.9\d\d, ", trained), "the recipe of the page suits the model"
    assert float(scored) == pytest.approx(float(re.findall(r"test (\S+):", trained)[0]), abs=1e-3)
    assert "bag-of-tokens" in listed


def of_adapter(printed: dict[str, str]) -> None:
    audited = list(printed.values())[-1]
    assert "Stable: every state decays" in " ".join(audited.split())
    assert "leaky-sums" in audited


def of_experiment(printed: dict[str, str]) -> None:
    assert "does the accuracy depend on the width" in next(iter(printed.values()))
    assert "Width of the embedding" in Path("width/report/report.html").read_text()


EXPECTED = {
    "task.md": of_task,
    "model.md": of_model,
    "adapter.md": of_adapter,
    "experiment.md": of_experiment,
}


def test_the_error_of_the_page_on_tasks_is_the_error_that_comes(
    cli: Callable[..., tuple[int, str, str]],
) -> None:
    save_files("task.md")
    code = Path("brackets.py").read_text()
    drawn = "        labels = rng.integers(0, 2, count)\n"
    assert drawn in code
    Path("brackets.py").write_text(code.replace(drawn, drawn[:-1] + "; labels[0] = 2\n"))
    exit_code, _, err = cli("train", "--task", "brackets.py", "--seq-len", "8", "--out", "new")
    [said] = re.findall(r"^    (error: .*)$", text_of("task.md"), flags=re.MULTILINE)
    assert exit_code == 2
    assert err.strip() == said


def test_the_task_of_the_page_is_right() -> None:
    from keelback.data import get_task
    from keelback.errors import InputError

    save_files("task.md")
    task = get_task("brackets.py", seq_len=12, n_test=200)
    assert get_task("brackets.py", seq_len=12).name == "brackets", "a file may be named again"
    test = task.split("test")
    depth = (1 - 2 * test.tokens).cumsum(1)
    balanced = (depth >= 0).all(1) & (depth[:, -1] == 0)
    assert balanced.long().tolist() == test.labels.tolist()
    with pytest.raises(InputError, match="task brackets: seq_len is 13"):
        get_task("brackets.py", seq_len=13)


def test_the_entry_points_of_the_page(install: Callable[..., Path]) -> None:
    """The pyproject of the page, for a package that holds the files of the four pages."""
    import tomllib

    from keelback.audit.adapters import REGISTERED
    from keelback.data import TASKS
    from keelback.experiments import EXPERIMENTS
    from keelback.models import MODELS

    [table] = re.findall(r"```toml\n(.*?)```", text_of("plugins.md"), flags=re.DOTALL)
    groups = tomllib.loads(table)["project"]["entry-points"]
    files = [name for page in WITH_FILES for name in save_files(page)]
    source = "\n".join(Path(name).read_text() for name in files)
    points = {
        group: "\n".join(f"{name} = {value}" for name, value in named.items())
        for group, named in groups.items()
    }
    install("keelback_brackets", source, points)
    registries = {
        "keelback.tasks": TASKS,
        "keelback.models": MODELS,
        "keelback.adapters": REGISTERED,
        "keelback.experiments": EXPERIMENTS,
    }
    assert groups.keys() == registries.keys()
    for group, registry in registries.items():
        for name in groups[group]:
            assert registry[name] is not None


@pytest.mark.parametrize("page", PAGES)
def test_links_and_commands_of_the_pages(page: str) -> None:
    from keelback.cli.app import app, load_commands

    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page)):
        assert (FOLDER / target).exists()
    load_commands()
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    lines = re.findall(r"^    keelback (?:--plugin \S+ )?(\S+)", text_of(page), re.MULTILINE)
    assert set(lines) <= known
