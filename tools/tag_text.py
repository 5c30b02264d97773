"""Print the text of a release's tag: its part of the changelog, and where its results come from.

    git tag --annotate v0.1.0 --file <(python tools/tag_text.py v0.1.0)

Exits with 1 where the tag is not the version that package, citation and changelog name.
"""

import re
import sys
from collections.abc import Mapping

import check_tag
import results_index
from keelback.commit import commit
from rebuild_plan import same_code
from results_index import Result


def text_of(version: str, changelog: str, results: Mapping[str, Result], now: str | None) -> str:
    """The text, of the changelog, the results and the commit that is tagged."""
    (changes,) = re.findall(
        rf"^## {re.escape(version)} - (.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    date, _, changes = changes.partition("\n")
    return f"keelback {version}, {date}\n\n{_plain(changes)}\n\n{_origin(results, now)}\n"


def _plain(markdown: str) -> str:
    """Without signs of headings, which git takes for comments."""
    return re.sub(r"^#+ (.*)$", r"\1:", markdown.strip(), flags=re.MULTILINE)


def _origin(results: Mapping[str, Result], now: str | None) -> str:
    commits = {c.removesuffix("-dirty")[:7] for one in results.values() for c in one.commits if c}
    ours = [one for one in results.values() if all(same_code(c, now) for c in one.commits or [""])]
    dirty = [path for path, result in results.items() if result.dirty]
    return "\n".join(
        [
            "Results:",
            "",
            f"results/index.json names the command, commit and device of each of {len(results)} "
            f"results. The code of this commit made {len(ours)} of them, and in all they name "
            f"{len(commits)} commits.",
            f"The code differed from its commit, or is not known, for {len(dirty)}: "
            f"{', '.join(dirty)}."
            if dirty
            else "For none of them the code differed from its commit.",
        ]
    )


def main() -> None:
    check_tag.main()
    version = sys.argv[1].removeprefix("v")
    changelog = (results_index.ROOT / "CHANGELOG.md").read_text()
    print(text_of(version, changelog, results_index.results(), commit()), end="")


if __name__ == "__main__":
    main()
