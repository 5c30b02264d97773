"""The Coq files, their index and the docs say the same; this runs without Coq."""

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import coq_bounds
import coq_gates
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROOFS = ROOT / "proofs"


def _script(name: str) -> ModuleType:
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


check_proofs = _script("check_proofs")
GROUPS = json.loads((PROOFS / "theorems.json").read_text())
ROWS = [row for rows in GROUPS.values() for row in rows]
TRANSCRIBED = [
    (module, name)
    for module in (coq_bounds, coq_gates)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__
]


def _words(text: str) -> str:
    return " ".join(text.split())


def _name(row: dict[str, str]) -> str:
    return row["theorem"].strip("`")


def test_the_index_lists_every_theorem_and_nothing_else() -> None:
    found = check_proofs.theorems()
    assert len(found) == len(ROWS)
    assert {name: path.name for name, path in found.items()} == check_proofs.indexed()


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_what_a_theorem_is_tied_to_exists(row: dict[str, str]) -> None:
    page, _, statement = row["statement"].partition(": ")
    assert statement in _words((ROOT / "docs" / page).read_text())
    for code in filter(None, row["code"].split(", ")):
        module, _, attributes = code.strip("`").partition(":")
        value = importlib.import_module(f"keelback.{module}")
        for attribute in attributes.split("."):
            value = getattr(value, attribute)
    for test in row["test"].split(", "):
        file, _, function = test.strip("`").partition("::")
        assert re.search(rf"^def {function}\(", (ROOT / "tests/proofs" / file).read_text(), re.M)


@pytest.mark.parametrize(
    ("module", "name"), TRANSCRIBED, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_transcribed_definition_is_word_for_word_that_of_coq(
    module: ModuleType, name: str
) -> None:
    definition = inspect.getdoc(getattr(module, name))
    files = [_words(path.read_text()) for path in PROOFS.glob("*.v")]
    assert sum(_words(definition) in text for text in files) == 1, definition


def test_the_docs_mark_what_is_proved_by_machine_and_nothing_else() -> None:
    statements = re.compile(r"\*\*([^*]+)\*\* \*\(([^)]*)\)\*")
    marked = {
        (page.name, " ".join(statement.split()))
        for page in (ROOT / "docs").glob("*.md")
        for statement, how in statements.findall(page.read_text())
        if "by machine" in how
    }
    indexed = {tuple(row["statement"].split(": ", 1)) for row in ROWS}
    assert marked == {(page, name) for page, name in indexed if name.endswith(".")}


def test_every_statement_of_the_bounds_says_how_it_is_proved() -> None:
    text = (ROOT / "docs/bounds.md").read_text()
    name = r"(?:Lemma|Proposition|Theorem|Corollary) \d+"
    stated = re.findall(rf"^\*\*({name})[^*]*\*\*(.*)", text, re.M)
    assert len(stated) >= 13
    for statement, rest in stated:
        assert re.match(r" \*\([^)]*(by machine|on paper)", rest), statement


def _with_one_file(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    (folder / "One.v").write_text(text)
    (folder / "_CoqProject").write_text("-Q . Keelback\nOne.v\n")
    monkeypatch.setattr(check_proofs, "PROOFS", folder)
    monkeypatch.setattr(check_proofs, "ROOT", folder)


@pytest.mark.parametrize(
    "text",
    [
        "Theorem one : 1 = 2. Admitted.",
        "Theorem one : 1 = 2. Proof. admit. Qed.",
        "Axiom one : 1 = 2.",
        "Parameters a b : nat.",
        "Unset Guard Checking.",
    ],
)
def test_a_file_that_leaves_a_proof_out_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_one_file(monkeypatch, tmp_path, f"(* a comment (* in a comment *) *)\n{text}\n")
    with pytest.raises(SystemExit, match=r"One\.v says .*: nothing may be left unproved"):
        check_proofs.theorems()


def test_a_comment_may_speak_of_axioms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(* no Axiom, (* nothing *) Admitted *)\nTheorem one : True. Proof. exact I. Qed.\n"
    _with_one_file(monkeypatch, tmp_path, text)
    assert list(check_proofs.theorems()) == ["one"]


def test_a_file_that_is_not_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_one_file(monkeypatch, tmp_path, "")
    (tmp_path / "Two.v").write_text("")
    with pytest.raises(SystemExit, match=r"differ in: Two\.v"):
        check_proofs.source_files()


def test_an_index_that_lacks_a_theorem_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_one_file(monkeypatch, tmp_path, "Theorem one : True. Proof. exact I. Qed.\n")
    (tmp_path / "theorems.json").write_text("{}")
    monkeypatch.setattr(check_proofs, "INDEX", tmp_path / "theorems.json")
    with pytest.raises(SystemExit, match="differ in: one"):
        check_proofs.require_index(check_proofs.theorems())


ANSWER = """     = "theorem one"%string
     : string
Axioms:
Classical_Prop.classic : forall P : Prop, P \\/ ~ P
ClassicalDedekindReals.sig_forall_dec
  : forall P : nat -> Prop,
    (forall n : nat, {P n} + {~ P n}) ->
    {n : nat | ~ P n} + {forall n : nat, P n}
     = "theorem two"
     : string
Closed under the global context
     = "theorem three"%string
     : string
Axioms:
cheat : 1 = 2
loop is assumed to be guarded.
"""


def test_the_axioms_are_read_from_what_coq_prints() -> None:
    read = dict(check_proofs.read_axioms(ANSWER))
    assert read == {
        "one": ["Classical_Prop.classic", "ClassicalDedekindReals.sig_forall_dec"],
        "two": [],
        "three": ["cheat", "loop"],
    }


def test_a_theorem_on_an_axiom_of_its_own_is_refused() -> None:
    read = check_proofs.read_axioms(ANSWER)
    checked = [check_proofs.Checked(name, "One.v", axioms) for name, axioms in read]
    check_proofs.require_allowed(checked[:2])
    with pytest.raises(SystemExit, match=r"three in One\.v rests on cheat, loop"):
        check_proofs.require_allowed(checked)


def test_where_coq_is_missing_the_script_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install coq libcoq-coquelicot"):
        check_proofs.require_coq(install=True)


needs_coq = pytest.mark.skipif(
    not shutil.which("coqc"), reason="Coq is not installed; `make prove` says how to get it"
)


@needs_coq
def test_coq_itself_names_an_assumption_that_no_word_gives_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_one_file(
        monkeypatch,
        tmp_path,
        "Variable cheat : 1 = 2.\n"
        "Theorem one : 1 = 2. Proof. exact cheat. Qed.\n"
        "Theorem two : 1 = 1. Proof. reflexivity. Qed.\n",
    )
    found = check_proofs.theorems()
    check_proofs.compile_all(clean=False, jobs=1)
    checked = check_proofs.axioms_of(found, jobs=2)
    assert {one.theorem: one.axioms for one in checked} == {"one": ["One.cheat"], "two": []}
    with pytest.raises(SystemExit, match=r"one in One\.v rests on One\.cheat"):
        check_proofs.require_allowed(checked)


@needs_coq
def test_a_proof_that_does_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_one_file(monkeypatch, tmp_path, "Theorem one : 1 = 2. Proof. reflexivity. Qed.\n")
    with pytest.raises(SystemExit, match="a proof does not hold"):
        check_proofs.compile_all(clean=False, jobs=1)


@pytest.mark.slow
@needs_coq
def test_coq_accepts_every_proof() -> None:
    script = [sys.executable, str(ROOT / "tools/check_proofs.py")]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"accepts {len(ROWS)} theorems" in done.stdout
