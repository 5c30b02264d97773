"""What a drawn figure shows: nothing cut, nothing over the data, numbers in one style."""

import itertools
import re

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keelback.outcome import Bars, Figure, Heatmap, Histogram, Line, Mark, Panel
from keelback.report._matplotlib import _draw, _style

LONG = ["gated SSM", "gate frozen", "W_B and W_C trained", "gated linear attention", "SGD"]


def drawn(*panels, caption="", title="A title"):
    with rc_context(_style()):
        canvas = _draw(Figure("f", title, panels, caption))
        renderer = FigureCanvasAgg(canvas)
        renderer.draw()
    return canvas, renderer.get_renderer()


def texts(canvas):
    """Every text that is shown, with its box in pixels."""
    found = []
    for artist in canvas.findobj(lambda artist: hasattr(artist, "get_text")):
        if artist.get_visible() and artist.get_text().strip():
            found.append(artist)
    return found


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


def inside(canvas, renderer):
    box = canvas.bbox
    places = [text for ax in canvas.axes for text in ax.get_xticklabels() + ax.get_yticklabels()]
    for text in texts(canvas):
        shown = text.get_window_extent(renderer)
        if text in places:
            continue  # Matplotlib keeps ticks beyond the limits; they are not drawn.
        assert shown.x0 >= box.x0 - 1, text.get_text()
        assert shown.x1 <= box.x1 + 1, text.get_text()
        assert shown.y0 >= box.y0 - 1, text.get_text()
        assert shown.y1 <= box.y1 + 1, text.get_text()


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_the_caption_is_drawn_below_everything_else(panels):
    caption = "Bands: two standard errors of the mean over five seeds. " * 6
    lines = [Line([1, 2], [1, 2], "train", [0, 1], [2, 3]), Line([1, 2], [2, 1], "test")]
    canvas, renderer = drawn(*[Panel("length", "accuracy", lines=lines)] * panels, caption=caption)
    note = canvas.texts[-1]
    assert " ".join(note.get_text().split()) == caption.strip()
    box = note.get_window_extent(renderer)
    inside(canvas, renderer)
    for other in [*canvas.axes, *canvas.legends]:
        assert other.get_tightbbox(renderer).y0 > box.y1


def test_long_names_of_bars_lie_beside_them_whole():
    bars = Bars(LONG, [0.9, 0.5, 0.8, 0.5, 0.7], "", [0.8] * 5, [1.0] * 5)
    panel = Panel("gate", "share", bars=[bars], y_limits=(0, 1), marks=[Mark(0.5, "chance", "y")])
    canvas, renderer = drawn(panel)
    axes = canvas.axes[0]
    assert ticks(axes.yaxis) == LONG
    assert all(label.get_rotation() == 0 for label in axes.get_yticklabels())
    assert axes.get_xlim() == (0, 1)
    inside(canvas, renderer)
    boxes = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("names", [LONG, ["a", "b"]])
def test_the_label_of_a_mark_never_lies_over_the_data(names):
    bars = Bars(names, [0.9] * len(names))
    marks = [Mark(0.5, "no selection", "y"), Mark(0.52, "majority class", "y")]
    canvas, renderer = drawn(Panel("gate", "share", bars=[bars], marks=marks))
    axes = canvas.axes[0]
    labels = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(labels) == 2
    area = axes.get_window_extent(renderer)
    for box in labels:
        assert box.y0 >= area.y1 - 1 or box.x0 >= area.x1 - 1
    assert not labels[0].overlaps(labels[1])


def test_marks_close_together_stand_in_rows_above_and_below_the_title():
    line = Line([1, 1000], [1, 2])
    marks = [Mark(100, "training length"), Mark(120, "degrades"), Mark(1000, "at the very end")]
    canvas, renderer = drawn(Panel("position", "loss", "layer 1", [line], log_x=True, marks=marks))
    axes = canvas.axes[0]
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    title = axes._left_title.get_window_extent(renderer)
    everything = [*boxes, title]
    assert not any(a.overlaps(b) for i, a in enumerate(everything) for b in everything[i + 1 :])
    assert min(box.y0 for box in boxes) >= axes.get_window_extent(renderer).y1 - 1
    assert title.y0 >= max(box.y1 for box in boxes) - 1
    inside(canvas, renderer)


@pytest.mark.parametrize("numbers", [(37, 3000), (5, 70_000), (0.1, 0.7), (1e-9, 1e4), (90, 1.2e8)])
@pytest.mark.parametrize("kind", ["line", "bars", "histogram"])
def test_the_numbers_of_a_log_axis_are_in_one_style(numbers, kind):
    panel = {
        "line": Panel("x", "y", lines=[Line([1, 2], numbers)], log_y=True),
        "bars": Panel("x", "y", bars=[Bars([1, 2], numbers)], log_y=True),
        "histogram": Panel("x", "y", histograms=[Histogram([0, 1, 2], numbers)], log_y=True),
    }[kind]
    canvas, _ = drawn(panel)
    axis = canvas.axes[0].yaxis
    bottom, top = axis.get_view_interval()
    shown = [
        text
        for place, text in zip(axis.get_ticklocs(), ticks(axis), strict=True)
        if bottom <= place <= top
    ]
    assert len(shown) >= 2
    assert len({"$" in text for text in shown}) == 1
    assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))


def test_large_numbers_are_written_out_and_none_stands_apart():
    canvas, _ = drawn(Panel("epoch", "y", lines=[Line([0, 1e6], [0, 3e-6])]))
    axes = canvas.axes[0]
    assert "200,000" in ticks(axes.xaxis)
    assert axes.xaxis.get_offset_text().get_text() == ""
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert any(re.search(r"10\^\{-6\}", text) for text in ticks(axes.yaxis))


def test_a_legend_never_lies_over_the_data():
    lines = [
        Line([1, 2, 3], [i, 2, 3 - i], f"a name of some length, {'abcdefg'[i]}") for i in range(7)
    ]
    canvas, renderer = drawn(Panel("x", "y", lines=lines), caption="One line per run.")
    legend = canvas.legends[0].get_window_extent(renderer)
    assert legend.y1 <= canvas.axes[0].get_tightbbox(renderer).y0 + 1
    assert legend.y0 >= canvas.texts[-1].get_window_extent(renderer).y1 - 1
    inside(canvas, renderer)


def test_long_labels_are_wrapped_and_whole():
    label = "relevant tokens ranked above irrelevant ones, share of all pairs"
    panels = [Panel(label, label, label, [Line([1, 2], [1, 2])])] * 3
    canvas, renderer = drawn(*panels, title="A title that is longer than one line of it " * 3)
    axes = canvas.axes[0]
    for text in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")):
        assert " ".join(text.split()) == label
    inside(canvas, renderer)


def test_a_label_is_repeated_behind_a_scale_of_colours_alone():
    """The scale's own label would else seem to be that of the axis beside it."""
    lines = Panel("gap", "samples", lines=[Line([1, 2], [3, 4])])
    colours = Panel("gap", "samples", heatmap=Heatmap(["1"], ["2"], [[0.5]], "share", 0.0, 1.0))
    for first, expected in ((lines, ""), (colours, "samples")):
        canvas, _ = drawn(first, lines)
        assert canvas.axes[1].get_ylabel() == expected
