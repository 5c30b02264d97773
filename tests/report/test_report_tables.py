import io

import polars as pl
import pytest
from report_samples import PROVENANCE, make_outcome
from rich.console import Console

from keelback.errors import InputError
from keelback.outcome import Column, Outcome, Table
from keelback.report import save_tables, terminal_tables, write_report
from keelback.report._files import distinct_stems
from keelback.report._tables import data_frame, format_cell


def printed(outcome, width=200):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for table in terminal_tables(outcome):
        console.print(table)
    return console.file.getvalue()


def test_parquet_and_csv_hold_the_same_typed_columns(outcome, tmp_path):
    parquet, csv = save_tables(outcome, tmp_path)
    frame = pl.read_parquet(parquet)
    assert frame.schema == {"name": pl.String, "n": pl.Int64, "value": pl.Float64, "ok": pl.Boolean}
    assert frame["value"].to_list() == [-0.25, None, float("inf")]
    assert pl.read_csv(csv).equals(frame)


def test_mixed_columns_become_text_and_large_integers_survive():
    rows = [{"a": 1, "b": 2**64}, {"a": "two", "b": 1}, {"a": True}]
    frame = data_frame(Table("t", "", [Column("a", "a"), Column("b", "b"), Column("c", "c")], rows))
    assert frame["a"].to_list() == ["1", "two", "True"]
    assert frame["b"].to_list() == [str(2**64), "1", None]
    assert frame["c"].to_list() == [None, None, None]


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    outcome = Outcome("e", "t", "s", tables=[Table("none", "", [Column("a", "a")], [])])
    parquet, _ = save_tables(outcome, tmp_path)
    assert pl.read_parquet(parquet).columns == ["a"]
    assert "a" in printed(outcome)


@pytest.mark.parametrize(
    ("value", "spec", "shown"),
    [
        (None, ".3f", "–"),
        (True, "", "yes"),
        (-0.12345, ".3f", "−0.123"),
        (-0.0, ".2f", "0.00"),
        (0.000012345, "", "1.234e−05"),
        (1200, "", "1200"),
        (1200, ",", "1,200"),
        (1.5, "d", "1.5"),
        ("word", ".3f", "word"),
        (float("inf"), ".3f", "∞"),
        (float("nan"), ".3f", "nan"),
        ("a\nb\x1b", "", "a↵b�"),
    ],
)
def test_cells_read_well(value, spec, shown):
    assert format_cell(value, spec) == shown


def test_terminal_shows_claims_and_cells(outcome):
    text = printed(outcome)
    assert "Claim" in text
    assert "−0.250" in text


def test_terminal_gets_no_control_characters_or_markup(hostile):
    text = printed(make_outcome("[bold red]x[/] " + hostile.title))
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "[bold red]x[/]" in text


def test_terminal_cuts_long_tables(outcome):
    table = Table("t", "", [Column("a", "a")], [{"a": i} for i in range(99)])
    text = printed(Outcome("e", "t", "s", tables=[table]))
    assert "59 more rows not shown" in text
    assert "40" not in text


def test_no_word_of_a_heading_is_cut_on_a_terminal():
    """Eighty columns hold a table of nine, as that of length-independence."""
    labels = ["T", "survived", "train", "test", "fresh", "gap", "train, paper"]
    labels += ["test, paper", "errors apart"]
    row = dict.fromkeys(labels, "0.935 (0.006)") | {"T": 25, "survived": "5 of 5", "gap": 0.0642}
    table = Table("t", "", [Column(label, label) for label in labels], [row])
    text = printed(Outcome("e", "t", "s", tables=[table]), width=80)
    assert "…" not in text
    words = text.replace(",", " ").split()
    assert all(word in words for label in labels for word in label.replace(",", " ").split())


def test_a_report_holds_page_figures_and_tables(outcome, tmp_path):
    page = write_report([outcome], tmp_path / "new" / "report", PROVENANCE)
    files = sorted(str(p.relative_to(page.parent)) for p in page.parent.rglob("*") if p.is_file())
    assert files == [
        "figures/all-kinds.json",
        "figures/all-kinds.pdf",
        "figures/all-kinds.png",
        "figures/one.json",
        "figures/one.pdf",
        "figures/one.png",
        "report.html",
        "tables/rows.csv",
        "tables/rows.parquet",
    ]


def test_outcomes_of_one_experiment_do_not_overwrite_each_other(tmp_path):
    table = [Table("t", "", [Column("a", "a")], [{"a": 1}])]
    outcomes = [Outcome(name, "t", "s", tables=table) for name in ("x", "X", "../x", "")]
    page = write_report(outcomes, tmp_path, PROVENANCE)
    folders = sorted(p.name for p in (page.parent / "tables").iterdir())
    assert folders == ["X-2", "unnamed", "x", "x-3"]


def test_a_report_refuses_what_it_cannot_do(outcome, tmp_path):
    with pytest.raises(InputError, match="at least one outcome"):
        write_report([], tmp_path, PROVENANCE)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give one that you may write to"):
        write_report([outcome], tmp_path / "file", PROVENANCE)


def test_distinct_stems_survive_a_name_that_looks_numbered():
    assert distinct_stems(["a", "a", "a-2", "a"]) == ["a", "a-2", "a-2-2", "a-3"]
