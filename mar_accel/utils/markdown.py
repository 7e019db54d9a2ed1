"""Tables in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: the first ``left`` columns are left-aligned, the others (numbers) right-aligned."""
    lines = ["| " + " | ".join(map(_escaped, cells)) + " |" for cells in (heading, *rows)]
    lines.insert(1, "|" + "---|" * left + "---:|" * (len(heading) - left))
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """A cell in which no sign ends it."""
    return text.replace("|", r"\|").replace("\n", " ")
