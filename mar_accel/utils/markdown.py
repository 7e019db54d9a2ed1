"""Tables in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column is left-aligned, the others (numbers) right-aligned."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heading, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(heading) - 1))
    return "\n".join(lines) + "\n"
