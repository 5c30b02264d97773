"""The plan for rebuilding the committed results, and a rebuild of a small tree of its own."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    if str(ROOT / "tools") not in sys.path:
        sys.path.insert(0, str(ROOT / "tools"))
    return importlib.import_module(name)


index, plan, rebuild = (tool(name) for name in ("results_index", "rebuild_plan", "rebuild_results"))
NOW, BEFORE = "0123456789ab", "ba9876543210"

FAKE = """
import json, sys
from pathlib import Path
name = sys.argv[1]
with Path("runs/calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if Path("runs/broken").exists() and Path("runs/broken").read_text() == name:
    sys.exit("it broke")
commit = Path("runs/commit").read_text()
record = {"command": f"python tools/fake.py {name}", "commit": commit, "python": "3"}
record |= {"versions": {}, "device": "a CPU", "date": "2026"}
missing = {"not_measured": ["b"]} if Path("runs/unfinished").exists() else {}
print(json.dumps({"provenance": record, **missing, "rows": [{"a": 1}]}))
"""
TABLE = "import sys; from pathlib import Path; Path(sys.argv[2]).write_text('a,b\\n')\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results `one` and `two`, and a table that is made from `one`; a script makes them anew."""
    results = tmp_path / "results"
    (results / "benchmarks").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "tools").mkdir()
    monkeypatch.setattr(index, "ROOT", tmp_path)
    monkeypatch.setattr(index, "RESULTS", results)
    special = {"INDEX": "index.json", "BY_HAND": "made_by.toml"}
    for name, file in (special | {"TIMES": "times.json"}).items():
        monkeypatch.setattr(index, name, results / file)
    (results / "made_by.toml").write_text(
        '["results/benchmarks/table.csv"]\nfrom = ["results/benchmarks/one.json"]\n'
        'commands = ["python tools/table.py --out results/benchmarks/table.csv"]\n'
    )
    (results / "benchmarks/table.csv").write_text("old\n")
    (tmp_path / "README.md").write_text(
        "<!-- table: results/benchmarks/one.json -->\n<!-- end -->\n"
    )
    (tmp_path / "tools/fake.py").write_text(FAKE)
    (tmp_path / "tools/table.py").write_text(TABLE)
    for name in ("one", "two"):
        write(tmp_path, name, command=f"python tools/fake.py {name}")
    monkeypatch.setattr(rebuild, "gpus", list)
    says(tmp_path, NOW, monkeypatch)
    return tmp_path


def write(root: Path, name: str, *, command: str, device: str = "a CPU", **found: Any) -> None:
    record = {"command": command, "commit": BEFORE, "python": "3", "versions": {}}
    record |= {"device": device, "date": "2026"}
    text = json.dumps({"provenance": record, "rows": [{"a": 0}], **found})
    (root / f"results/benchmarks/{name}.json").write_text(text)


def says(root: Path, commit: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code be of this commit."""
    monkeypatch.setattr(rebuild, "commit", lambda: commit)
    (root / "runs/commit").write_text(str(commit))


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rebuild_results.py", *arguments])
    return int(rebuild.main())


def calls(root: Path) -> list[str]:
    file = root / "runs/calls"
    return file.read_text().splitlines() if file.exists() else []


def value(root: Path, name: str) -> int:
    found = json.loads((root / f"results/benchmarks/{name}.json").read_text())
    return int(found["rows"][0]["a"])


class TestAPlan:
    def job(self, name: str) -> Any:
        jobs = plan.jobs(index.results(), rebuild.times())
        return next(job for job in jobs if f"results/benchmarks/{name}" in job.makes)

    def test_a_table_comes_after_what_it_is_made_from(self, tree: Path) -> None:
        names = [Path(job.makes[0]).name for job in plan.jobs(index.results(), {})]
        assert names.index("table.csv") > names.index("one.json")
        assert self.job("table.csv").after == ("results/benchmarks/one.json",)

    @pytest.mark.parametrize(
        ("device", "found", "where"),
        [
            ("AMD EPYC, 2 threads", {}, "cpu"),
            ("NVIDIA H200", {}, "gpu"),
            ("NVIDIA H200", {"processes": 2}, "gpus"),
            ("AMD EPYC, 2 threads", {"processes": 2}, "cpu"),
        ],
    )
    def test_the_device_says_where(
        self, tree: Path, device: str, found: dict[str, int], where: str
    ) -> None:
        write(tree, "one", command="python tools/fake.py one", device=device, **found)
        assert self.job("one.json").where == where
        assert self.job("one.json").devices == ((device,) if where != "cpu" else ())
        assert self.job("table.csv").where == "cpu"

    def test_the_time_is_that_of_the_last_rebuild_or_of_the_trainings(self, tree: Path) -> None:
        assert self.job("one.json").seconds is None
        spans = [("2026-11-21T10:00:00Z", "2026-11-21T10:00:30Z")] * 2
        runs = [{"first": first, "last": last} for first, last in spans]
        write(tree, "one", command="python tools/fake.py one", runs=runs)
        assert (self.job("one.json").seconds, self.job("one.json").whole) == (60, False)
        noted = {"results/benchmarks/one.json": {"seconds": 75.5, "commit": BEFORE}}
        index.TIMES.write_text(json.dumps(noted))
        assert (self.job("one.json").seconds, self.job("one.json").whole) == (75.5, True)

    def test_one_command_that_makes_two_results_is_one_job(self, tree: Path) -> None:
        both = "python tools/fake.py --table results/benchmarks/table.csv"
        (tree / "results/made_by.toml").write_text(
            f'["results/benchmarks/table.csv"]\nfrom = ["results/benchmarks/one.json"]\n'
            f'commands = ["{both} > results/benchmarks/one.json"]\n'
        )
        write(tree, "one", command=both)
        assert len(self.job("one.json").makes) == 2

    def test_a_file_that_its_source_reads_comes_first(self, tree: Path) -> None:
        command = "python tools/fake.py results/benchmarks/table.csv"
        write(tree, "one", command=command)
        assert self.job("table.csv").after == ()
        assert self.job("one.json").after == ("results/benchmarks/table.csv",)


@pytest.mark.parametrize(
    ("command", "words", "stdout"),
    [
        ("keelback bench conv --json > results/a.json", "-m keelback bench conv --json", "a.json"),
        ("keelback reproduce a --out runs/paper", "-m keelback reproduce a --out S/paper", None),
        ("keelback reproduce a", "-m keelback reproduce a --out S/name", None),
        ("keelback x --data IMDB/a.parquet", "-m keelback x --data runs/IMDB/a.parquet", None),
        ("keelback x --set a=CHECKPOINTS", "-m keelback x --set a=runs/CHECKPOINTS", None),
        ("A=1 keelback x", "-m keelback x", None),
    ],
)
def test_commands_as_they_are_run(command: str, words: str, stdout: str | None) -> None:
    step = plan.step(command, "name", "S", allow_dirty=False)
    assert step.words == (sys.executable, *words.split())
    assert step.stdout == (stdout and f"results/{stdout}")
    assert step.environment == ({"A": "1"} if command.startswith("A=1") else {})


def test_every_committed_result_is_in_the_plan() -> None:
    results = index.results()
    jobs = plan.jobs(results, {})
    assert sorted(path for job in jobs for path in job.makes) == list(results)
    for job in jobs:
        for command in job.commands:
            step = plan.step(command, "name", "runs/0123456789ab", allow_dirty=True)
            assert not any(word.startswith("../") for word in step.words)
    assert {job.where for job in jobs} == set(plan.WHERE)


def test_results_and_pages_do_not_make_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]

    def commit(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", name], check=True)
        return subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()

    subprocess.run([*git, "init", "-q"], check=True)
    first = commit("src/a.py", "1")
    second = commit("results/a.json", "1")
    third = commit("src/a.py", "2")
    assert plan.same_code(first[:12], second)
    assert not plan.same_code(first, third)
    assert not plan.same_code(first, first + "-dirty")
    assert not plan.same_code(None, None)


class TestARebuild:
    def test_without_run_nothing_runs(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert called(monkeypatch) == 1
        assert calls(tree) == []
        said = capsys.readouterr().out
        assert "two cores, unknown: results/benchmarks/one.json" in said
        assert "two cores: 3 to do; 0 of them" in said
        assert "0 of 3 are done" in said

    def test_everything_is_made_once(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert called(monkeypatch, "--run") == 0
        assert sorted(calls(tree)) == ["one", "two"]
        assert value(tree, "one") == 1
        assert (tree / "results/benchmarks/table.csv").read_text() == "a,b\n"
        assert {noted["commit"] for noted in rebuild.times().values()} == {NOW}
        assert not (tree / "runs/before").exists()
        assert called(monkeypatch, "--run") == 0
        assert sorted(calls(tree)) == ["one", "two"]
        says(tree, "another00000", monkeypatch)
        assert called(monkeypatch, "--run", "--only", "two") == 0
        assert sorted(calls(tree)) == ["one", "two", "two"]

    def test_a_failure_is_named_and_the_others_go_on(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tree / "runs/broken").write_text("one")
        assert called(monkeypatch, "--run") == 1
        said = capsys.readouterr().out
        assert "not made: results/benchmarks/one.json: exit 1 of python tools/fake.py one" in said
        assert "table.csv: waits for results/benchmarks/one.json" in said
        assert (value(tree, "one"), value(tree, "two")) == (0, 1)
        assert "it broke" in (tree / f"runs/{NOW}/logs/benchmarks-one.json.log").read_text()
        (tree / "runs/broken").unlink()
        assert called(monkeypatch, "--run") == 0
        assert sorted(calls(tree)) == ["one", "one", "two"]

    def test_a_command_that_says_another_commit_has_failed(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tree / "runs/commit").write_text(BEFORE)
        assert called(monkeypatch, "--run", "--only", "two") == 1
        assert f"do not say that {NOW} made them" in capsys.readouterr().out
        assert value(tree, "two") == 0

    def test_a_command_that_did_not_measure_all_has_failed(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tree / "runs/unfinished").touch()
        assert called(monkeypatch, "--run", "--only", "two") == 1
        assert "results/benchmarks/two.json is not finished, it lacks b" in capsys.readouterr().out
        assert value(tree, "two") == 0

    def test_what_a_killed_call_put_aside_comes_back(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        aside = tree / "runs/before/results/benchmarks/table.csv"
        aside.parent.mkdir(parents=True)
        (tree / "results/benchmarks/table.csv").rename(aside)
        assert called(monkeypatch) == 1
        assert (tree / "results/benchmarks/table.csv").read_text() == "old\n"

    @pytest.mark.parametrize("options", [[], ["--run"]])
    def test_nothing_is_put_back_while_another_call_works(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
    ) -> None:
        aside = tree / "runs/before/results/benchmarks/table.csv"
        aside.parent.mkdir(parents=True)
        aside.write_text("old\n")
        with rebuild.alone(), pytest.raises(SystemExit, match="another call works"):
            called(monkeypatch, *options)
        assert aside.exists()

    def test_a_path_that_is_missing_is_asked_for(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tree, "two", command="python tools/fake.py two IMDB/a.parquet")
        assert called(monkeypatch, "--run", "--only", "two") == 1
        assert "two.json: needs --imdb" in capsys.readouterr().out
        assert called(monkeypatch, "--run", "--only", "two", "--imdb", str(tree)) == 0
        assert calls(tree) == ["two runs/IMDB/a.parquet"]
        with pytest.raises(SystemExit, match="--imdb: there is no"):
            called(monkeypatch, "--imdb", str(tree / "nowhere"))

    @pytest.mark.parametrize(
        ("here", "reason"),
        [([], "needs one GPU"), (["NVIDIA H100"], "is about NVIDIA H200"), (["NVIDIA H200"], "")],
    )
    def test_what_this_machine_cannot_do_is_left(
        self,
        tree: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        here: list[str],
        reason: str,
    ) -> None:
        write(tree, "two", command="python tools/fake.py two", device="NVIDIA H200")
        monkeypatch.setattr(rebuild, "gpus", lambda: here)
        assert called(monkeypatch, "--run", "--where", "gpu") == (1 if reason else 0)
        assert (f"two.json: {reason}" in capsys.readouterr().out) == bool(reason)
        assert calls(tree) == ([] if reason else ["two"])

    def test_a_peer_that_is_not_installed_is_named(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tree, "two", command="python tools/fake.py two --peer no_such_peer --peer json")
        assert called(monkeypatch, "--only", "two") == 1
        assert "not on this machine: needs the package no_such_peer\n" in capsys.readouterr().out
        assert called(monkeypatch, "--run", "--only", "two") == 1
        assert "two.json: needs the package no_such_peer\n" in capsys.readouterr().out
        assert calls(tree) == []

    @pytest.mark.parametrize("commit", [f"{NOW}-dirty", None])
    def test_code_of_no_commit_is_refused_and_what_it_makes_not_shown(
        self,
        tree: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        commit: str | None,
    ) -> None:
        says(tree, commit, monkeypatch)
        (tree / "runs/commit").write_text(f"{NOW}-dirty")
        assert called(monkeypatch, "--run") == 2
        assert "--allow-dirty" in capsys.readouterr().err
        assert calls(tree) == []
        assert called(monkeypatch, "--run", "--allow-dirty", "--only", "one") == 0
        assert value(tree, "one") == 1
        monkeypatch.setattr(sys, "argv", ["fill_tables.py"])
        with pytest.raises(SystemExit, match=r"differed from its commit.*one\.json"):
            tool("fill_tables").main()
        says(tree, NOW, monkeypatch)
        assert called(monkeypatch, "--run", "--only", "one") == 0
        monkeypatch.setattr(sys, "argv", ["fill_tables.py"])
        monkeypatch.setattr(tool("fill_tables"), "ROOT", tree)
        tool("fill_tables").main()
        assert "| 1 |" in (tree / "README.md").read_text()
