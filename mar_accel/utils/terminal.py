"""Tables on the terminal whose cells are never cut or folded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

# Wide enough for every table; the terminal itself breaks lines that are too long for it.
_ANY_WIDTH = 10_000


def print_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in its natural width, so that names of folders can be copied."""
    table = Table()
    for name in heading:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    natural = Measurement.get(Console(), Console().options.update(max_width=_ANY_WIDTH), table).maximum
    Console(width=max(natural, Console().width)).print(table)
