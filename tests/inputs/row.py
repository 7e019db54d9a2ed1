"""A row of the table of bad inputs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """A command, its arguments, and a part of what it says about them."""

    command: str
    arguments: tuple[str, ...]
    sentence: str

    def __str__(self) -> str:
        return " ".join([self.command, *self.arguments])


def rows_of(command: str, sentences: Mapping[str, str]) -> list[Row]:
    """Rows of one command; arguments are separated by spaces, except inside quotes and brackets."""
    return [Row(command, _split(arguments), sentence) for arguments, sentence in sentences.items()]


def _split(arguments: str) -> tuple[str, ...]:
    return (arguments,) if {*arguments} & {*'{"'} else tuple(shlex.split(arguments))
