"""What the documents refer to exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from mar_accel.config.compose import compose_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")])


def test_tests_named_as_evidence_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "claims.md").read_text()))
    assert len(named) > 20
    for file, name in sorted(named):
        tree = ast.parse((ROOT / file).read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), (
            f"docs/claims.md names {file}::{name}, which does not exist"
        )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


def test_the_citation_is_of_this_version() -> None:
    from mar_accel import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    for reference in citation["references"]:
        assert reference["title"] and reference["authors"] and "arxiv.org" in reference["url"]


def test_the_tree_in_the_architecture_names_every_module() -> None:
    """And no other: a file that moved is to be moved there, too."""
    tree = (ROOT / "docs" / "architecture.md").read_text().partition("\n## The tree\n")[2]
    tree = tree.partition("\n## ")[0]
    named = re.findall(r"^\| `([\w/]+\.py)` \|", tree, re.MULTILINE)
    package = ROOT / "mar_accel"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    # The __init__.py of a folder says what the folder's heading says.
    modules -= {name for name in modules if name.endswith("/__init__.py")}
    assert sorted(named) == sorted(modules)


def test_names_for_readers_of_mars_code_exist() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("\n## For readers of MAR's code\n")[2]
    here = [line.split(" | ")[-1] for line in table.splitlines() if line.startswith("| ")]
    named = {match for cell in here for match in re.findall(r"`([\w/]+\.py): (\w+)`", cell)}
    assert len(named) > 8
    for file, name in sorted(named):
        body = ast.parse((ROOT / "mar_accel" / file).read_text()).body
        defined = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert name in defined, f"docs/architecture.md names {name} of {file}, which does not exist"


def test_the_tree_has_the_folders_in_the_order_of_the_storeys() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text()
    order = re.search(r"^   commands > (.*?)\.$", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
    assert order is not None
    assert re.findall(r"^### (\w+)/: ", tree, re.MULTILINE)[1:] == re.split(r"\s*>\s*", order[1])


def _commands(document: Path) -> list[list[str]]:
    """Command lines of the package in a document: the name of the command, then its arguments.

    Words may stand before them: python, srun or torchrun with options, or variables of the environment.
    """
    text = document.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?: {4})?(?:[\w=-]+ )+-m mar_accel\.(.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def _last_of_a_sweep(override: str) -> str:
    """The override of a sweep's last run; earlier ones may lack a key, as with cache=none,lazymar."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    if parsed.is_interval_sweep():
        return f"{parsed.key_or_group}={parsed.value().end}"
    return f"{parsed.key_or_group}={list(parsed.sweep_string_iterator())[-1]}"


def _searched(overrides: Sequence[str]) -> list[str]:
    """What a search among the overrides adds: its parameters, those aside that stand among the overrides."""
    given = dict(override.split("=", 1) for override in overrides)
    if "hparams_search" not in given:
        return []
    file = ROOT / "conf" / "hparams_search" / f"{given['hparams_search']}.yaml"
    params = yaml.safe_load(file.read_text())["hydra"]["sweeper"]["params"]
    return [f"{key}={value}" for key, value in params.items() if key not in given]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_compose(document: Path) -> None:
    for name, *arguments in _commands(document):
        # Groups and classes of one's own, and what a shell puts in, are not here.
        if "--config-dir" in arguments or any("$(" in word or "_target_=" in word for word in arguments):
            continue
        # Settings of Hydra and of its sweep, and folders without a key, are no keys of the config.
        # Overrides as a value are quoted by the command.
        ours = [word for word in arguments if "=" in word and not word.startswith(("-", "hydra", "sweep."))]
        ours = [word for word in ours if "=" not in word.partition("=")[2] or word[-1] in "]}"]
        overrides = [_last_of_a_sweep(override) for override in [*_searched(ours), *ours]]
        settings = compose_settings(name, overrides)
        assert settings.command == name, f"{document.name}: {name} {arguments}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_found(document: Path) -> None:
    """The test above would pass with none. All that stand outside the sentences are command lines."""
    outside = re.sub(r"`(?:[^`\n]|\n(?!\n))+`", "", document.read_text().replace("```", ""))
    assert len(_commands(document)) == len(re.findall(r"-m mar_accel\.\w", outside))


def test_there_are_commands() -> None:
    assert sum(len(_commands(document)) for document in DOCUMENTS) > 50
