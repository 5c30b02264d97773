import dataclasses
import struct
import warnings

import numpy as np
import pytest
from pydantic import TypeAdapter
from report_samples import HOSTILE, make_outcome

from keelback.errors import InputError, JobError
from keelback.outcome import Figure, Heatmap, Line, Panel
from keelback.report import load_figure, save_figure, save_figure_data
from keelback.report._geometry import band_segments, category_labels, color_range
from keelback.report._matplotlib import _draw, _edges
from keelback.report._wrapping import literal


def png_size(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_draws_every_kind_of_panel_without_a_warning(outcome, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png, pdf = save_figure(outcome.figures[0], tmp_path)
    assert png_size(png)[0] == 1400  # 7 inches at 200 dpi
    assert pdf.read_bytes().startswith(b"%PDF")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all-kinds.pdf", "all-kinds.png"]


def test_the_same_figure_gives_the_same_bytes(outcome, tmp_path):
    first = [p.read_bytes() for p in save_figure(outcome.figures[1], tmp_path / "a")]
    assert first == [p.read_bytes() for p in save_figure(outcome.figures[1], tmp_path / "b")]


@pytest.mark.parametrize("text", ["plain", HOSTILE])
def test_a_figure_that_was_saved_as_data_is_drawn_the_same(text, tmp_path):
    for figure in make_outcome(text).figures:
        again = load_figure(save_figure_data(figure, tmp_path))
        assert repr(again) == repr(_with_lists(figure))
        first = [path.read_bytes() for path in save_figure(figure, tmp_path / "a")]
        assert first == [path.read_bytes() for path in save_figure(again, tmp_path / "b")]


def _with_lists(value):
    """The figure with numbers that the fields name as floats, as floats."""
    return TypeAdapter(Figure).validate_python(dataclasses.asdict(value))


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path):
    x, y = np.arange(3), np.array([0.5, np.nan, np.inf], dtype=np.float32)
    path = save_figure_data(Figure("f", "F", [Panel("x", "y", lines=[Line(x, y)])]), tmp_path)
    line = load_figure(path).panels[0].lines[0]
    assert line.x == [0, 1, 2]
    assert repr(line.y) == "[0.5, nan, inf]"


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot read"), ("[1]", "does not hold a figure"), ("{", "JSON")]
)
def test_a_file_that_holds_no_figure_is_refused(text, said, tmp_path):
    path = tmp_path / "f.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_figure(path)


def test_hostile_strings_are_drawn_as_they_are(hostile, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(hostile.figures[0], tmp_path)
    canvas = _draw(Figure("f", "$\\frac$ and _", [Panel("$x$", "_y")]))
    assert canvas.get_suptitle() == r"\$\frac\$ and _"
    assert literal("_hidden") == "\u200b_hidden"


def test_a_name_cannot_leave_the_directory(tmp_path):
    figure = Figure("../../etc/passwd", "", [Panel("x", "y")])
    png, _ = save_figure(figure, tmp_path / "in")
    assert png == tmp_path / "in" / "etc-passwd.png"


def test_panels_wrap_after_three():
    def grid(n):
        axes = _draw(Figure("f", "", [Panel("x", "y")] * n)).axes
        specification = axes[0].get_subplotspec().get_gridspec()
        return specification.nrows, specification.ncols

    assert [grid(n) for n in (1, 2, 3, 4, 5, 7)] == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]


def test_points_that_a_log_axis_cannot_place_break_the_line():
    panel = Panel("x", "y", lines=[Line([0, 1, 2], [0.0, 1.0, -1.0])], log_x=True, log_y=True)
    drawn = _draw(Figure("f", "", [panel])).axes[0].lines[0].get_xydata()
    assert drawn[1].tolist() == [1, 1]
    assert [row != row for row in drawn[:, 1]] == [True, False, True]


def test_a_band_breaks_where_an_end_is_missing():
    line = Line([0, 1, 2, 3], [1, 1, 1, 1], "", [0, None, 0, 0], [2, 2, 2, 2])
    assert band_segments(line, Panel("x", "y")) == [[(0, 0, 2)], [(2, 0, 2), (3, 0, 2)]]


def test_cells_meet_half_way_on_the_axis_as_drawn():
    assert _edges([1, 2, 4], log=False) == [0.5, 1.5, 3.0, 5.0]
    assert _edges([1, 100], log=True) == pytest.approx([0.1, 10, 1000])
    assert _edges(["a", "b"], log=False) == [-0.5, 0.5, 1.5]


def test_a_range_across_zero_is_symmetric():
    assert color_range(Heatmap([0], [0], [[-1, 3]])) == (-3, 3)
    assert color_range(Heatmap([0], [0], [[2, None, 5]], lowest=0)) == (0, 5)
    low, high = color_range(Heatmap([0], [0], [[7]]))
    assert low == 7 < high


def test_repeated_tokens_keep_their_places():
    labels = category_labels(["the", "cat", "the", "\n", "x" * 99])
    assert len(set(labels)) == 5
    assert labels[3] == "↵"
    assert len(labels[4]) == 24


def test_a_missing_extra_says_what_to_install(outcome, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'matplotlib.*pip install "keelback\[report\]"'):
        save_figure(outcome.figures[1], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_directory_that_cannot_be_written_to_is_named(outcome, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/inside"):
        save_figure(outcome.figures[1], tmp_path / "file" / "inside")


def test_a_failed_write_leaves_the_old_file_and_no_part(outcome, tmp_path, monkeypatch):
    png, _ = save_figure(outcome.figures[1], tmp_path)
    before = png.read_bytes()

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(JobError, match="No space left"):
        save_figure(outcome.figures[0], tmp_path, stem=png.stem)
    assert png.read_bytes() == before
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pdf", ".png"]


def test_a_short_log_axis_is_labelled_in_plain_numbers():
    panel = Panel("x", "y", lines=[Line([0.031, 0.5], [2e6, 1e7])], log_x=True, log_y=True)
    canvas = _draw(Figure("f", "", [panel]))
    canvas.canvas.draw()
    axes = canvas.axes[0]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert {"0.05", "0.1", "0.2", "0.5"} <= set(shown)
    assert all("times" not in label for label in shown)
    assert any("10^{6}" in label.get_text() for label in axes.get_yticklabels())
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
