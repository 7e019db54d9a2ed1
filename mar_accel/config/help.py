"""What ``--help`` says about keys: the words of the settings classes."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import get_type_hints

from mar_accel.config.settings import COMMAND_NODES, Settings

# Keys of every command that have no node of their own.
_SHARED = ("seed", "output_dir")
_WIDTH, _GAP = 108, 2


def keys_of(command: str) -> str:
    """A line for each key of a command's own nodes, and for those of every command.

    Args:
        command: name of a command, such as "generate".

    Example:
        >>> print(keys_of("plan").splitlines()[0])
        plan.flops    count the FLOPs of each AR step, including the cache.
    """
    nodes = [node for node, owner in COMMAND_NODES.items() if owner == command]
    if command == "evaluate_table":
        nodes.append("evaluate")
    words: dict[str, str] = {}
    for node in (*nodes, *_SHARED):
        cls = get_type_hints(Settings)[node]
        own = attributes_of(cls) if hasattr(cls, "__dataclass_fields__") else {}
        words |= {f"{node}.{key}": text for key, text in own.items()}
        if not own:
            words[node] = attributes_of(Settings)[node]
    start = max(map(len, words)) + 2 * _GAP
    lines = [textwrap.wrap(text, _WIDTH - start) for text in words.values()]
    return "\n".join(
        f"{key:{start}}" + f"\n{'':{start}}".join(parts) for key, parts in zip(words, lines, strict=True)
    )


def attributes_of(cls: type) -> dict[str, str]:
    """Description of each attribute in the docstring of a settings class; None reads as YAML's null."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    words: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = re.fullmatch(r" {4}(\w[\w, ]*): (.*)", line)
        if entry is None and not line.startswith("     "):
            break
        if entry is not None:
            names = entry[1].split(", ")
        text = entry[2] if entry is not None else line.strip()
        for name in names:
            words[name] = f"{words.get(name, '')} {text}".strip()
    return {name: re.sub(r"\bNone\b", "null", text.replace("``", "")) for name, text in words.items()}
