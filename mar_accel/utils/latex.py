"""Tables in LaTeX, for the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

_ESCAPED = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{
        "±": r"$\pm$",
        "×": r"$\times$",
        "σ": r"$\sigma$",
        "–": "--",
        "−": "$-$",
        "÷": r"$\div$",
        "Δ": r"$\Delta$",
        "β": r"$\beta$",
        "→": r"$\rightarrow$",
    },
    **{"<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$"},
}


def escape(text: str) -> str:
    """Text in which no character has a meaning of its own for LaTeX."""
    return "".join(_ESCAPED.get(sign, sign) for sign in text)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, note: str = "") -> str:
    """A tabular with booktabs' rules.

    Args:
        heading, rows: plain text, which is escaped here.
        left: number of columns that are left-aligned (names); the others (numbers) are right-aligned.
        note: a comment above the table.
    """
    lines = [f"% {line}" for line in note.splitlines() if line]
    lines.append(r"\begin{tabular}{" + "l" * left + "r" * (len(heading) - left) + "}")
    lines += [r"\toprule", _line(heading), r"\midrule", *map(_line, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
