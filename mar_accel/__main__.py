"""List the commands: ``python -m mar_accel``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from mar_accel import __version__

# Modules at the top of the package that are imported, not run.
LIBRARY = ("__init__", "__main__", "errors", "pipeline")


def commands() -> dict[str, str]:
    """What each command does, by its name: the first words of its module's docstring.

    The modules are parsed and not imported, because most of them import torch, which takes seconds.
    """
    sources = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in LIBRARY)
    return {path.stem: _purpose(path.read_text(encoding="utf-8")) for path in sources}


def _purpose(source: str) -> str:
    docstring = ast.get_docstring(ast.parse(source)) or ""
    line = docstring.partition("\n")[0]
    # A docstring goes on with an example: "Sample images: ``python -m …``."
    return line.partition(": ``")[0].rstrip(".")


def main() -> None:
    """Print the commands, or the version; anything else ends with status 2."""
    arguments, known = sys.argv[1:], commands()
    if arguments == ["--version"]:
        print(f"mar_accel {__version__}")
    elif not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("Usage: python -m mar_accel.COMMAND [KEY=VALUE ...]\n\nCommands:")
        print(*(f"  {name:<{width}}  {purpose}" for name, purpose in known.items()), sep="\n")
        print("\npython -m mar_accel.COMMAND --help shows the settings of a command.")
    else:
        name = arguments[0] if arguments[0] in known else "COMMAND"
        print(f"error: each command is a module; use python -m mar_accel.{name}.", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
