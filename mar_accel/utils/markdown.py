"""Tables of text as GitHub shows them."""

from __future__ import annotations

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is left-aligned and the others, which hold numbers, right-aligned."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heading, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(heading) - 1))
    return "\n".join(lines) + "\n"
