"""What the documents name is there: files, names of the package, commands with their options."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for f in ("docs", "tasks", "adapters", "apps", "benchmarks", "configs")
                                          for p in (ROOT / f).rglob("*.md"))])  # fmt: skip
RECIPES = sorted(p for f in ("tasks", "configs") for p in (ROOT / f).rglob("*.yaml"))
TOP = {path.name for path in ROOT.iterdir()}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_and_names_are_there(path: Path) -> None:
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith(("http", "mailto"))]
    assert [link for link in links if not (path.parent / link).exists()] == []
    paths = [p for p in re.findall(r"`([\w.-]+/[\w./*-]*)`", text) if p.split("/")[0] in TOP]
    assert [p for p in paths if "_shipped" not in p and not list(ROOT.glob(p.rstrip("/")))] == []
    assert [dotted for dotted in re.findall(r"`(medfm(?:\.\w+)+)[`(]", text) if not known(dotted)] == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *RECIPES], ids=name)
def test_commands_are_there(path: Path) -> None:
    from medfm.cli import commands

    top: Any = typer.main.get_command(commands.app)
    for line in typed(path.read_text()):
        command, (verb, *words) = top, re.split(r" ?[|;#&] ", line)[0].split()
        if verb not in top.commands:
            continue  # "medfm ships no large file"
        command = top.commands[verb]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.split("=")[0].rstrip(".,") for word in words if word.startswith("--")} <= options, line


def typed(text: str) -> Iterator[str]:
    """What follows `medfm` in code and in the comments of recipes."""
    for match in re.finditer(r"(?:^ {4}|^|`|# |; |&& |which )medfm\)? ([a-z][^\n`]*)", text, re.MULTILINE):
        yield match[1]


def known(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, what lies in one, or a file (medfm.json)."""
    if dotted == "medfm.json":
        return True
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False
