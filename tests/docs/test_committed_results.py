"""Each number of the docs leads to a committed file, and from there to a command that exists."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_lines import parsed

from keelback.commit import is_clean
from keelback.experiments import get_experiment

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


def tool(name: str) -> ModuleType:
    if str(TOOLS) not in sys.path:
        sys.path.insert(0, str(TOOLS))
    return importlib.import_module(name)


index, fill = tool("results_index"), tool("fill_tables")
RESULTS = index.results()
FILES = {file: result for result in RESULTS.values() for file in result.files}
DOCUMENTS = index.documents()


def test_the_index_is_what_the_files_and_the_docs_say() -> None:
    assert index.INDEX.read_text() == index.index() + "\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_and_figure_is_of_a_result(document: Path) -> None:
    text = document.read_text()
    shown = [name.partition("#")[0] for name in re.findall(r"<!-- table: (\S+) -->", text)]
    folder = document.parent
    for figure in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        shown.append((folder / figure).resolve().relative_to(ROOT).as_posix())
    assert set(shown) <= {*FILES, *LISTS}


LISTS = {"proofs/theorems.json", "tools/known_papers.toml", "tools/known_ours.toml"}
"""What a table shows that is no result: theorems, and claims with the results behind them."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_result_that_is_named_is_there(document: Path) -> None:
    named = index.SHOWN.findall(document.read_text())
    missing = [name for name in named if Path(name).suffix and not (ROOT / name).exists()]
    written = "\n".join(re.findall(r"^    (.*)$", document.read_text(), re.MULTILINE))
    assert [name for name in missing if f"--out {name}" not in written] == []


@pytest.mark.parametrize("result", RESULTS.values(), ids=lambda result: result.path)
def test_every_result_has_a_command_that_exists_and_writes_it(result: Any) -> None:
    assert result.commands
    for command in result.commands:
        check(command)
    if result.path not in NAMELESS and not result.commands[0].startswith("make "):
        assert any(result.path in command for command in result.commands)


NAMELESS = {"results/experiments/certificates/certificates.csv"}
"""Written by a command that needs no name: there is one such table."""


def check(command: str) -> None:
    """Fail unless the command line is one that its program takes."""
    words = shlex.split(command.partition(" > ")[0])
    while "=" in words[0]:
        del words[0]
    if words[0] in ("cp", "rm"):
        paths = [word for word in words[1:] if not word.startswith("-")]
        assert all(path.startswith(("runs/", "results/")) for path in paths)
        return
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if words[0] == "python":
        script = ROOT / words[1]
        assert script.parent == TOOLS
        assert script.is_file()
        module = tool(script.stem)
        if hasattr(module, "parser"):
            module.parser().parse_args(words[2:])
        else:
            assert words[2:] == []
        return
    assert words[0] == "keelback"
    name, options = parsed(words[1:])
    if name == "reproduce":
        pairs = dict(pair.split("=", 1) for pair in options["setting"] or [])
        given = {key: options[key] for key in ("task", "seeds", "data") if options.get(key)}
        fields = get_experiment(options["experiment"]).settings_type.model_fields
        assert set(pairs) | set(given) <= set(fields)


def test_no_result_was_made_from_code_that_differed_from_its_commit() -> None:
    assert not [result.path for result in RESULTS.values() if result.dirty]


def test_every_recorded_commit_is_in_the_history() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no history here")
    git = ["git", "-C", str(ROOT)]
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True)
    if shallow.stdout.strip() != b"false":
        pytest.skip("not the whole history is here")
    commits = {c.removesuffix("-dirty") for r in RESULTS.values() for c in r.commits if c}
    asked = "".join(f"{commit}^{{commit}}\n" for commit in sorted(commits))
    done = subprocess.run(
        [*git, "cat-file", "--batch-check"], input=asked, capture_output=True, text=True, check=True
    )
    assert "missing" not in done.stdout


class TestATreeOfItsOwn:
    """The rules, each on a small tree that breaks it."""

    @pytest.fixture
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        results = tmp_path / "results"
        (results / "benchmarks").mkdir(parents=True)
        monkeypatch.setattr(index, "ROOT", tmp_path)
        monkeypatch.setattr(fill, "ROOT", tmp_path)
        monkeypatch.setattr(index, "RESULTS", results)
        special = {"INDEX": "index.json", "BY_HAND": "made_by.toml"}
        for name, file in (special | {"TIMES": "times.json"}).items():
            monkeypatch.setattr(index, name, results / file)
        (results / "made_by.toml").write_text("")
        (tmp_path / "README.md").write_text(
            "<!-- table: results/benchmarks/one.json -->\n<!-- end -->\n"
        )
        self.write(results, "abc123")
        return results

    def write(self, results: Path, commit: str | None) -> None:
        known = "" if commit is None else f'"commit": "{commit}", '
        (results / "benchmarks/one.json").write_text(
            f'{{"provenance": {{"command": "keelback bench conv --json", {known}"python": "3", '
            '"versions": {}, "device": "x", "date": "2026"}, "rows": [{"a": 1}]}'
        )

    def test_a_clean_result_may_be_shown(self, tree: Path) -> None:
        assert index.refused() == set()
        [result] = index.results().values()
        assert result.commands == ["keelback bench conv --json > results/benchmarks/one.json"]
        assert result.commits == {"abc123"}
        assert index.shown() == {"results/benchmarks/one.json": {"README.md"}}

    @pytest.mark.parametrize("commit", ["abc123-dirty", None])
    def test_a_dirty_result_or_one_of_no_known_commit_may_not(
        self, tree: Path, commit: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(tree, commit)
        assert index.refused() == {"results/benchmarks/one.json"}
        monkeypatch.setattr(sys, "argv", ["fill_tables.py"])
        with pytest.raises(SystemExit, match=r"differed from its commit.*one\.json"):
            fill.main()

    def test_a_file_of_no_result_is_an_error(self, tree: Path) -> None:
        (tree / "benchmarks/two.csv").write_text("a,b\n1,2\n")
        with pytest.raises(SystemExit, match=r"two\.csv"):
            index.results()

    def test_a_page_that_is_not_committed_is_not_in_the_index(self, tree: Path) -> None:
        before = index.index()
        (tree / "benchmarks/report.html").write_text("<p>")
        assert index.index() == before

    def test_a_file_that_a_refused_command_left_empty_is_named(self, tree: Path) -> None:
        (tree / "benchmarks/one.json").write_text("")
        with pytest.raises(SystemExit, match=r"one\.json is not JSON"):
            index.results()

    def test_an_unfinished_file_is_named_by_every_tool(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tree / "benchmarks/one.json"
        document = json.loads(file.read_text())
        file.write_text(json.dumps(document | {"not_measured": []}))
        assert fill.as_markdown("results/benchmarks/one.json") == "| a |\n| --- |\n| 1 |\n"
        file.write_text(json.dumps(document | {"not_measured": ["forward", "backward"]}))
        said = r"benchmarks/one\.json is not finished, it lacks forward; backward"
        for read in (index.results, index.index, index.refused):
            with pytest.raises(SystemExit, match=said):
                read()
        with pytest.raises(SystemExit, match=said):
            fill.as_markdown("results/benchmarks/one.json")
        known = tool("known_claims")
        with pytest.raises(SystemExit, match=said):
            known._document(file)
        for module, name in ((fill, "fill_tables.py"), (index, "results_index.py")):
            for options in ([], ["--check"]):
                monkeypatch.setattr(sys, "argv", [name, *options])
                with pytest.raises(SystemExit, match=said):
                    module.main()

    def test_an_unfinished_file_that_is_known_to_be_so_is_taken_and_said(self, tree: Path) -> None:
        file = tree / "benchmarks/one.json"
        missing = ["forward", "backward"]
        document = json.loads(file.read_text())
        file.write_text(json.dumps(document | {"not_measured": missing}))
        (tree / "made_by.toml").write_text('["results/benchmarks/one.json"]\nunfinished = true\n')
        assert fill.as_markdown("results/benchmarks/one.json") == "| a |\n| --- |\n| 1 |\n"
        [entry] = json.loads(index.index())["results"].values()
        assert entry["not_measured"] == missing
        assert entry["commands"] == ["keelback bench conv --json > results/benchmarks/one.json"]
        assert index.refused() == set()
        file.unlink()
        with pytest.raises(SystemExit, match=r"files that are not there: .*one\.json"):
            index.results()

    def test_a_file_of_which_only_that_is_known_belongs_to_no_result(self, tree: Path) -> None:
        (tree / "benchmarks/two.csv").write_text("a,b\n1,2\n")
        (tree / "made_by.toml").write_text('["results/benchmarks/two.csv"]\nunfinished = true\n')
        with pytest.raises(SystemExit, match=r"nothing says which command made .*two\.csv"):
            index.results()

    def test_so_is_that_of_a_folder(self, tree: Path) -> None:
        document = json.loads((tree / "benchmarks/one.json").read_text())
        (tree / "benchmarks/two").mkdir()
        file = tree / "benchmarks/two/results.json"
        file.write_text(json.dumps(document | {"not_measured": ["forward"]}))
        (tree / "made_by.toml").write_text('["results/benchmarks/two"]\nunfinished = true\n')
        entry = json.loads(index.index())["results"]["results/benchmarks/two"]
        assert entry["not_measured"] == ["forward"]

    def test_a_peer_that_refused_the_first_row_has_its_columns(self, tree: Path) -> None:
        file = tree / "benchmarks/one.json"
        row = {"batch": 1, "pass": "forward", "call_ms": {"ours": 2.0}, "ratios": {}}
        other = {"call_ms": {"ours": 2.0, "fla": 4.0}, "ratios": {"call_ms": 2.0}}
        rows = [row, row | {"pass": "step"} | other]
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rows": rows}))
        heads, _, *lines = fill.as_markdown("results/benchmarks/one.json#rows/call_ms").splitlines()
        assert heads.count("fla") == 1
        assert heads.count("best peer / keelback") == 1
        assert lines == ["| 1 | forward | 2 |  |  |", "| 1 | step | 2 | 4 | 2 |"]

    @pytest.mark.parametrize("out", ["/tmp/x/one.json", "'a b/one.json'"])
    def test_a_file_that_was_moved_here_is_written_here_again(self, tree: Path, out: str) -> None:
        file = tree / "benchmarks/one.json"
        document = json.loads(file.read_text())
        document["provenance"]["command"] = f"keelback bench conv --out {out} --repeats 3"
        file.write_text(json.dumps(document))
        [result] = index.results().values()
        assert result.commands == [
            "keelback bench conv --out results/benchmarks/one.json --repeats 3"
        ]

    def test_a_file_made_from_results_is_as_dirty_as_they(self, tree: Path) -> None:
        self.write(tree, "abc123-dirty")
        (tree / "benchmarks/two.csv").write_text("a,b\n1,2\n")
        (tree / "made_by.toml").write_text(
            '["results/benchmarks/two.csv"]\ncommands = ["python tools/tabulate.py"]\n'
            'from = ["results/benchmarks/one.json"]\n'
        )
        found = index.results()["results/benchmarks/two.csv"]
        assert found.dirty
        assert not any(is_clean(commit) for commit in found.commits)

    def test_what_the_toml_names_must_be_there(self, tree: Path) -> None:
        (tree / "made_by.toml").write_text(
            '["results/benchmarks/gone.csv"]\ncommands = ["x"]\nfrom = []\n'
        )
        with pytest.raises(SystemExit, match=r"gone\.csv"):
            index.results()


@pytest.mark.parametrize(
    ("recorded", "today"),
    [
        ("python benchmarks/mamba_inner.py", "python tools/mamba_inner.py"),
        ("x --out benchmarks/results/a.json", "x --out results/benchmarks/a.json"),
        ("x --report-to results/a", "x --report-to results/experiments/a"),
        ("x --out results/benchmarks/a.json", "x --out results/benchmarks/a.json"),
        ("x --out results/experiments/a", "x --out results/experiments/a"),
        ("x --data runs/IMDB --set a=runs/CHECKPOINTS", "x --data IMDB --set a=CHECKPOINTS"),
        ("x runs/IMDB/a.parquet --out runs/0123456789ab/a", "x IMDB/a.parquet --out runs/a"),
        ("x --parts ../a.parts.json", "x --parts runs/a.parts.json"),
        ("keelback --allow-dirty x", "keelback x"),
    ],
)
def test_old_commands_are_read_with_todays_folders(recorded: str, today: str) -> None:
    assert index.as_of_today(recorded) == today
    assert index.as_of_today(today) == today
