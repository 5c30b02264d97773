"""The palette is legible on its paper and told apart with any common colour vision."""

import itertools

import numpy as np
import pytest

from keelback.outcome import Figure, Line, Panel
from keelback.report._geometry import legends
from keelback.report._palette import DARK, LIGHT, family_colors

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
        for color in (theme.ink, theme.muted, theme.good, theme.bad):
            assert contrast(color, theme.paper) >= 4.5  # WCAG AA for text
        for color in theme.series:
            assert contrast(color, theme.paper) >= 3  # WCAG AA for graphics

    @pytest.mark.parametrize("vision", VISION)
    def test_series_are_told_apart(self, theme, vision):
        seen = [oklab(np.array(VISION[vision]) @ linear(color)) for color in theme.series]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.09

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
