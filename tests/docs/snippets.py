"""The fenced blocks and command lines of the README and the docs, as a reader meets them."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?:(?P<margin> *)<!-- not run: (?P<reason>[^\n]*?) -->\n)?"
    r"^ *```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")? *\n(?P<code>.*?)^ *```$"
    r"(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block. `title` is the name of the file that it is, `output` what the page says that
    it prints, `reason` why it is not run."""

    page: str
    line: int
    language: str
    title: str | None
    code: str
    output: str | None
    reason: str | None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(
            page=name_of(page),
            line=text.count("\n", 0, found.start("code")) + 1,
            language=found["language"],
            title=found["title"],
            code=textwrap.dedent(found["code"]),
            output=found["output"],
            reason=found["reason"],
        )


def python_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


def commands_of(page: Path) -> list[str]:
    """The lines that call keelback in what is set as code, without prose: `  # what it does`, or
    words behind several spaces. Options in brackets are taken as given."""
    text = page.read_text(encoding="utf-8")
    shell = [block.code for block in blocks_of(page) if block.language in ("bash", "sh")]
    indented = re.findall(r"^    (?:.*)$", _BLOCK.sub("", text), flags=re.MULTILINE)
    code = textwrap.dedent("\n".join([*indented, *(textwrap.indent(s, "    ") for s in shell)]))
    code = re.sub(r" *\\\n *", " ", code)
    code = re.sub(r"\n +(?=\[--)", " ", code)
    lines = [line.strip() for line in code.splitlines()]
    found = [line for line in lines if re.match(r"(srun .*|accelerate launch .*)?keelback ", line)]
    return [re.split(r" {2,}", line)[0].translate({91: "", 93: ""}) for line in found]


def commands_in_sentences(page: Path) -> list[str]:
    """What stands in a sentence as `keelback COMMAND ...`; it may leave out required parts."""
    found = re.findall(r"`(keelback [a-z][^`]* [^`]*)`", page.read_text(encoding="utf-8"))
    return [" ".join(line.split()).translate({91: "", 93: ""}) for line in found]
