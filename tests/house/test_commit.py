"""Code knows its commit, and results of unknown code stay out of the committed ones."""

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from keelback import commit
from keelback.cli import main
from keelback.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONSTANTS = """{"B_u": 1, "s_A": -0.1, "B_A": 1, "B_B": 1, "M_B": 1, "B_C": 1, "M_C": 1, "B_q": 1,
"M_q": 1, "B_w": 1, "M_w": 1, "p_lo": 0, "p_hi": 1, "T": 10, "m": 100, "d": 2, "N": 2}"""


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project with what its package needs, committed."""
    root = tmp_path / "checkout"
    (root / "src/keelback").mkdir(parents=True)
    (root / "results").mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    for name in ("__init__.py", "commit.py", "errors.py"):
        shutil.copy(ROOT / "src/keelback" / name, root / "src/keelback" / name)
    (root / "results/index.json").write_text("{}")
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_a_checkout_is_its_head(checkout: Path) -> None:
    found = commit.commit_of(checkout)
    assert commit.is_clean(found)
    assert found is not None
    assert len(found) == 12
    assert git(checkout, "rev-parse", "HEAD").startswith(found)


@pytest.mark.parametrize("name", ["src/keelback/errors.py", "src/keelback/new.py", "tools/new.py"])
def test_code_that_differs_is_dirty(checkout: Path, name: str) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("x = 1\n")
    found = commit.commit_of(checkout)
    assert found is not None
    assert found.endswith("-dirty")
    assert not commit.is_clean(found)


def test_deleted_code_is_dirty(checkout: Path) -> None:
    (checkout / "src/keelback/errors.py").unlink()
    assert not commit.is_clean(commit.commit_of(checkout))


@pytest.mark.parametrize(
    "name", ["results/index.json", "results/new.json", "README.md", "src/__pycache__/x.pyc"]
)
def test_what_code_makes_does_not_count(checkout: Path, name: str) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("other")
    assert commit.is_clean(commit.commit_of(checkout))


def test_where_there_is_no_history_the_commit_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commit.commit_of(tmp_path) is None
    assert not commit.is_clean(None)
    monkeypatch.setenv("PATH", str(tmp_path))  # no git either
    assert commit.commit_of(ROOT) is None


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    return folder


@pytest.mark.parametrize("state", ["0123456789ab-dirty", None])
def test_committed_results_are_not_written_from_unknown_code(
    results: Path, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    monkeypatch.setattr(commit, "commit", lambda: state)
    with pytest.raises(InputError, match=r"new\.json is a committed result.*--allow-dirty"):
        commit.require_clean(results / "benchmarks/new.json")
    commit.require_clean(results / "benchmarks/new.json", allow_dirty=True)
    commit.require_clean(results.parent / "elsewhere.json")
    (results / "index.json").unlink()
    commit.require_clean(results / "benchmarks/new.json")


def test_a_link_into_the_results_is_the_results(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "commit", lambda: "0123456789ab-dirty")
    (tmp_path / "link").symlink_to(results)
    with pytest.raises(InputError):
        commit.require_clean(tmp_path / "link/new.json")


def test_committed_results_are_written_from_a_clean_commit(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "commit", lambda: "0123456789ab")
    commit.require_clean(results / "new.json")


def test_a_command_refuses_before_it_works(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commit, "commit", lambda: "0123456789ab-dirty")
    command = ["reproduce", "data-histograms", "--quick", "--report-to", str(results / "new")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--out", str(results.parent / "store")])
    assert stop.value.code == 2
    assert "committed result" in capsys.readouterr().err
    assert sorted(path.name for path in results.parent.iterdir()) == ["results"]


def test_a_certificate_is_a_result(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commit, "commit", lambda: "0123456789ab-dirty")
    command = ["certify", "no-such-model", "--task", "majority", "--certificate"]
    with pytest.raises(SystemExit) as stop:
        main([*command, str(results / "new.certificate.json")])
    assert stop.value.code == 2
    assert "committed result" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "code"), [([], 2), (["--allow-dirty"], 0)])
def test_what_a_shell_redirects_is_known(results: Path, options: list[str], code: int) -> None:
    constants = results.parent / "constants.json"
    constants.write_text(CONSTANTS)
    arguments = [*options, "bound", "--constants", str(constants), "--json"]
    script = (
        "from keelback import commit; from keelback.cli import main; "
        f"commit.commit = lambda: '0123456789ab-dirty'; main({arguments!r})"
    )
    with (results / "bound.json").open("w") as stdout:
        done = subprocess.run([sys.executable, "-c", script], stdout=stdout, stderr=-1, check=False)
    assert done.returncode == code
    assert bool((results / "bound.json").read_text()) == (code == 0)


def test_a_wheel_and_an_sdist_know_their_commit(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    [wheel] = WheelBuilder(str(checkout)).build(directory=str(tmp_path), versions=["standard"])
    assert _commit_in(Path(wheel)) == head
    [sdist] = SdistBuilder(str(checkout)).build(directory=str(tmp_path), versions=["standard"])
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", sdist, "-C", str(tmp_path / "unpacked")], check=True)
    [unpacked] = (tmp_path / "unpacked").iterdir()
    again = tmp_path / "again"
    [wheel] = WheelBuilder(str(unpacked)).build(directory=str(again), versions=["standard"])
    assert _commit_in(Path(wheel)) == head

    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    script = "from keelback.commit import commit; print(commit())"
    said = subprocess.check_output(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(installed)}, text=True
    )
    assert said.strip() == head


def test_the_page_of_a_package_leads_to_no_file_of_the_repository(
    checkout: Path, tmp_path: Path
) -> None:
    pytest.importorskip("hatchling")
    from hatchling.builders.wheel import WheelBuilder

    [wheel] = WheelBuilder(str(checkout)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        page = file.read(name).decode().partition("\n\n")[2]
    readme = (ROOT / "README.md").read_text()
    assert page.count("\n## ") == readme.count("\n## ")
    assert page.count("```") == readme.count("```")
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets == [x for x in targets if x.startswith(("https://", "#"))]
    assert "![" not in page


def test_an_editable_install_holds_no_commit(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.CommitHook(str(checkout), {}, None, None, str(tmp_path), "wheel")
    for version, files in (("editable", 0), ("standard", 1)):
        build_data: dict[str, dict[str, str]] = {"force_include": {}}
        hook.initialize(version, build_data)
        assert len(build_data["force_include"]) == files
        hook.finalize(version, build_data, "")
    assert commit.is_clean(commit.commit_of(checkout))


def _commit_in(wheel: Path) -> str | None:
    with zipfile.ZipFile(wheel) as file:
        if "keelback/commit.txt" not in file.namelist():
            return None
        return file.read("keelback/commit.txt").decode().strip()
