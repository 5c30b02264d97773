"""The palette is legible on its paper and told apart with any common colour vision."""

import itertools

import numpy as np
import pytest

from keelback.outcome import Figure, Line, Panel
from keelback.report._geometry import legends
from keelback.report._palette import (
    DARK,
    LIGHT,
    RAMP_STEPS,
    SIGNED_STEPS,
    family_colors,
    repeated,
)

# Machado, Oliveira and Fernandes 2009, severity 1: what a dichromat sees, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(color):
    values = np.array(list(bytes.fromhex(color[1:]))) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def oklab(rgb):
    cones = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ np.clip(rgb, 0, 1)
    )
    return (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ cones
    )


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
class TestTheme:
    def test_text_and_lines_stand_out_from_the_paper(self, theme):
        for color in (theme.ink, theme.muted, theme.good, theme.warn, theme.bad):
            assert contrast(color, theme.paper) >= 4.5  # WCAG AA for text
        for color in (*theme.series, *theme.ramp, *theme.signed):
            assert contrast(color, theme.paper) >= 3  # WCAG AA for graphics

    @pytest.mark.parametrize("vision", VISION)
    def test_series_are_told_apart(self, theme, vision):
        colors = (*theme.series, theme.muted)  # muted: the lines of references
        seen = [oklab(np.array(VISION[vision]) @ linear(color)) for color in colors]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.09

    @pytest.mark.parametrize("vision", VISION)
    def test_the_scale_of_numbers_runs_one_way_in_lightness(self, theme, vision):
        colors = [theme.colors()[f"ramp-{i}"] for i in range(RAMP_STEPS)]
        steps = np.diff([oklab(np.array(VISION[vision]) @ linear(color))[0] for color in colors])
        assert (steps > 0).all() or (steps < 0).all()

    @pytest.mark.parametrize("vision", VISION)
    def test_starts_below_and_above_zero_are_told_apart(self, theme, vision):
        colors = [theme.colors()[f"signed-{i}"] for i in range(SIGNED_STEPS)]
        seen = [oklab(np.array(VISION[vision]) @ linear(color)) for color in colors]
        middle = SIGNED_STEPS // 2
        for i in range(1, middle + 1):
            assert np.linalg.norm(seen[middle - i] - seen[middle + i]) > min(0.04 * i, 0.13)

    def test_sequential_scale_runs_one_way_in_lightness(self, theme):
        lightness = [oklab(linear(color))[0] for color in theme.sequential]
        steps = np.diff(lightness)
        assert (steps > 0).all() or (steps < 0).all()


def figure(*panels):
    return Figure(
        "f", "", [Panel("x", "y", lines=[Line([0], [0], name) for name in p]) for p in panels]
    )


def test_a_family_keeps_its_colour_in_every_panel():
    first, second = family_colors(figure(["train", "test"], ["test", "published"]))
    assert first == second
    assert len(set(first.values())) == 4  # three families and the unnamed


def test_many_families_take_distinct_steps_of_the_ramp():
    colors = family_colors(figure([str(i) for i in range(16)]))[0]
    assert [colors[str(i)] for i in range(16)] == [f"ramp-{i}" for i in range(16)]


def test_panels_with_too_many_families_together_get_legends_of_their_own():
    panels = figure(list("abcd"), list("efgh"))
    assert family_colors(panels)[1]["e"] == "series-0"
    assert [[entry.label for entry in entries] for entries in legends(panels)] == [
        [*"abcd"],
        [*"efgh"],
    ]


def test_one_legend_speaks_for_all_panels_where_one_shows_everything():
    assert [len(entries) for entries in legends(figure(["a"], ["a", "b"]))] == [2, 0]
    assert legends(figure(["alone"])) == [[]]


def test_numbers_take_a_scale_in_their_order_whatever_the_order_of_drawing():
    colors = family_colors(figure(["T = 300", "T = 50", "T = 100", "T = 200", "T = 150"]))[0]
    steps = [int(colors[f"T = {t}"].removeprefix("ramp-")) for t in (50, 100, 150, 200, 300)]
    assert (steps[0], steps[-1]) == (0, 15)
    assert steps == sorted(set(steps))


def test_numbers_on_both_sides_of_zero_have_grey_at_zero():
    names = [f"start {start / 100:+.2f}" for start in range(-10, 12, 2)]
    colors = family_colors(figure(names))[0]
    assert colors["start +0.00"] == "signed-8"
    assert [colors["start -0.10"], colors["start +0.10"]] == ["signed-0", "signed-16"]


@pytest.mark.parametrize("names", [list("abcdefgh"), ["T = 1", "N = 2", "3", "4", "5", "6", "7"]])
def test_no_more_than_six_hues_and_dashes_for_the_rest(names):
    colors = family_colors(figure(names))[0]
    hues = {token for token in colors.values() if token.startswith("series-")}
    assert len(hues) == 6
    assert repeated(colors) == set(names[6:])
    looks = {(entry.color, entry.again) for entry in legends(figure(names))[0]}
    assert len(looks) == len(names)


def test_a_reference_is_grey_and_takes_no_hue():
    panel = Panel("x", "y", lines=[Line([0], [0], "slope -2", reference=True), Line([0], [0], "a")])
    colors = family_colors(Figure("f", "", [panel]))[0]
    assert colors == {"": "muted", "a": "series-0"}
    assert [entry.color for entry in legends(Figure("f", "", [panel]))[0]] == ["muted", "series-0"]
