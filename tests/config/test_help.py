"""What ``--help`` says about keys."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from mar_accel.config.help import attributes_of, keys_of
from mar_accel.config.settings import COMMAND_NODES, Settings


@pytest.mark.parametrize("node", COMMAND_NODES)
def test_every_key_of_a_command_has_words(node: str) -> None:
    listed = [line for line in keys_of(COMMAND_NODES[node]).splitlines() if not line.startswith(" ")]
    lines = dict(line.split(maxsplit=1) for line in listed)
    cls = get_type_hints(Settings)[node]
    keys = [f"{node}.{field.name}" for field in fields(cls)] if is_dataclass(cls) else [node]
    assert {*keys, "seed", "output_dir"} <= lines.keys()
    assert all(len(lines[key].split()) > 1 for key in keys)


def test_a_table_has_the_keys_of_its_evaluations() -> None:
    assert "\nevaluate.baseline " in keys_of("evaluate_table")


def test_words_of_several_attributes_and_of_several_lines() -> None:
    class Example:
        """An example.

        Attributes:
            first, second: text of both,
                on two lines. None: nothing.
            third: ``code``.

        Example:
            >>> Example()
        """

    both = "text of both, on two lines. null: nothing."
    assert attributes_of(Example) == {"first": both, "second": both, "third": "code."}
