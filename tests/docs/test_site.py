"""The site builds without a warning, shows every page, and loads nothing from another host."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs")
from mkdocs.commands.build import build
from mkdocs.config import load_config
from PIL import Image

import keelback

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
api_pages = importlib.import_module("api_pages")
site_hooks = importlib.import_module("site_hooks")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a page outside the navigation, or a link to nothing, is an error."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    assert config.strict
    build(config)
    return folder


def pages_of(nav: Any) -> Iterator[str]:
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            if isinstance(value, str):
                yield value
            else:
                yield from pages_of(value)


def test_every_page_is_in_the_navigation_once() -> None:
    named = sorted(pages_of(load_config(str(ROOT / "mkdocs.yml")).nav))
    docs = ROOT / "docs"
    found = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    written = [path.relative_to(docs).as_posix() for path in found]
    assert named == sorted([*written, *api_pages.pages()])


def test_every_room_has_a_page_of_its_public_names() -> None:
    """The names as Python sees them, against those that are read from the sources."""
    assert set(keelback._ROOMS) <= set(api_pages.rooms())
    for room in api_pages.rooms():
        module = importlib.import_module(f"keelback.{room}")
        if hasattr(module, "__all__"):
            assert set(api_pages.names_of(room)) == set(module.__all__), room
        for name in api_pages.names_of(room):
            assert hasattr(module, name), (room, name)


@pytest.mark.slow
def test_every_public_name_is_described_on_its_rooms_page(site: Path) -> None:
    for room in api_pages.rooms():
        text = (site / f"reference/api/{room}/index.html").read_text()
        names = api_pages.names_of(room)
        assert names
        for name in names:
            assert f'id="keelback.{room}.{name}"' in text, (room, name)


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = [path for kind in ("*.html", "*.css") for path in site.rglob(kind)]
    assert len(pages) > 25
    for page in pages:
        assert site_hooks.loads_from_elsewhere(page.read_text()) == [], page


@pytest.mark.slow
def test_every_formula_is_drawn_and_every_figure_there(site: Path) -> None:
    bounds = (site / "studies/bounds/index.html").read_text()
    assert bounds.count("<math") > 300
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert "arithmatex" not in text, page
        for name in text.split('src="')[1:]:
            target = name.partition('"')[0].partition("?")[0]
            if not target.startswith(("data:", "/")):
                assert (page.parent / target).exists(), (page, target)


def test_figures_of_results_get_a_frame_and_their_size() -> None:
    name = "results/experiments/baselines-imdb/figures/baselines-imdb.png"
    framed = site_hooks.on_page_content(f'<p><img alt="a &gt; b" src="../../{name}" /></p>')
    width, height = Image.open(ROOT / name).size
    assert framed == (
        f'<div class="figure" tabindex="0"><img alt="a &gt; b" src="../../{name}" '
        f'width="{width}" height="{height}" /></div>'
    )
    plain = '<p><img alt="drawn in a notebook" src="data:image/png;base64,AA" /></p>'
    assert site_hooks.on_page_content(plain) == plain


def test_options_and_numbers_stay_on_one_line() -> None:
    text = '<p id="a--b">Give <code>--train-length 64</code>: 8e-07, a-b -- c</p>'
    assert site_hooks.on_page_content(text) == (
        '<p id="a--b">Give <code><span class="whole">--train-length</span> 64</code>: '
        '<span class="whole">8e-07</span>, a-b -- c</p>'
    )
    block = "<pre><code>keelback audit --out 1e-05</code></pre>"
    assert site_hooks.on_page_content(block) == block


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/a.js"></script>',
        "<img alt=x src='//cdn.example/a.png'>",
        '<link rel="stylesheet" href="https://fonts.example/css?family=Roboto">',
        '<iframe width="3" src="http://video.example/1"></iframe>',
        "@font-face { src: url(https://fonts.example/a.woff2) }",
        '@import "https://fonts.example/a.css";',
    ],
)
def test_what_would_be_loaded_from_another_host_is_found(text: str) -> None:
    [found] = site_hooks.loads_from_elsewhere(f"<p>{text}</p>")
    assert ".example" in found


@pytest.mark.parametrize(
    "text",
    [
        '<a href="https://arxiv.example/abs/1">a paper</a>',
        '<link rel="canonical" href="https://keelback.example/">',
        '<script src="../assets/a.js"></script><img src="data:image/png;base64,AA//BB">',
        "url(fonts/a.ttf) url(data:image/svg+xml;charset=utf-8,<svg/>)",
    ],
)
def test_links_and_what_lies_on_the_site_are_no_loads(text: str) -> None:
    assert site_hooks.loads_from_elsewhere(text) == []
