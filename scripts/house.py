#!/usr/bin/env python3
"""What imports what in the three trees, and what breaks the rule that docs/architecture.md explains.

    python scripts/house.py

The rule: the top level of a tree holds its programs and its contract, folders are subjects, imports point downward and
never in a circle. It is read from the text of the imports, those inside functions too, so nothing has to be installed.
A *door* is a file of a few lines that only gives a program a second name; it belongs to no folder.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = ("pi05_progress", "pi05_progress_ros", "training")
PROGRAM_FOLDERS = (*TREES, "pi05_progress_ros.sim")  # at whose top programs lie
DOOR_LINES = 20
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class File:
    """A Python file of a tree.

    Attributes:
        name: dotted module name; a package's is that of its folder.
        lines: how many it has.
        imports: modules of the three trees that it imports, files and packages.
        foreign: first parts of everything else that it imports.
        is_program: whether it is one to be run.
    """

    name: str
    lines: int
    imports: frozenset[str]
    foreign: frozenset[str]
    is_program: bool

    @property
    def is_door(self) -> bool:
        """Whether it only gives a program another name."""
        return self.is_program and len(self.imports) == 1 and self.lines < DOOR_LINES


def read_files(root: Path = ROOT) -> dict[str, File]:
    """Every Python file of the trees, by module name."""
    found = [path for tree in TREES for path in sorted((root / tree).rglob("*.py"))]
    paths = {module_name(path.relative_to(root)): path for path in found}
    files = {}
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        named = set(imported(ast.parse(text), package, paths))
        own = frozenset(module for module in named if module in paths and module != name)
        foreign = frozenset(module.partition(".")[0] for module in named if module.partition(".")[0] not in TREES)
        is_program = path.name == "__main__.py" or '__name__ == "__main__"' in text
        files[name] = File(name, text.count("\n"), own, foreign, is_program)
    return files


def module_name(path: Path) -> str:
    """``training/engine/__init__.py`` is ``training.engine``, a file beside it ``training.engine.loss``."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, package: str, known: Mapping[str, object]) -> Iterator[str]:
    """Full names of the modules that a file imports; a name taken from a package counts as the module that it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def children(files: Mapping[str, File], package: str) -> Graph:
    """What lies directly in a package, files and folders by their names there, and how those import one another."""
    prefix = package + "."

    def child(name: str) -> str | None:
        return name.removeprefix(prefix).partition(".")[0] if name.startswith(prefix) else None

    found: Graph = {}
    for name, file in files.items():
        if (own := child(name)) is not None and not file.is_door:
            found.setdefault(own, set()).update({child(other) for other in file.imports} - {own, None})
    return found


def circle(graph: Graph) -> list[str]:
    """Names along a circle, each importing the next, the first again at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def levels(graph: Graph) -> dict[str, int]:
    """How high each name lies: 0 if it imports none of the others, else one above the highest that it imports."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph.get(name, ())), default=-1)
    return found


def top_programs(files: Mapping[str, File]) -> set[str]:
    """Programs at the top of a tree or of the simulation."""
    return {name for name, file in files.items() if file.is_program and name.rpartition(".")[0] in PROGRAM_FOLDERS}


def is_program_folder(files: Mapping[str, File], name: str) -> bool:
    """Whether a folder is itself run, and not only a door."""
    main = files.get(f"{name}.__main__")
    return main is not None and not main.is_door


def helpers_at_top(files: Mapping[str, File], folder: str) -> list[str]:
    """Folders and files at the top of a tree or of the simulation that are no programs."""
    programs = top_programs(files)
    names = {name: f"{folder}.{name}" for name in children(files, folder)}
    return sorted(n for n, whole in names.items() if whole not in programs and not is_program_folder(files, whole))


def faults(files: Mapping[str, File]) -> list[str]:
    """What breaks the rule, a line each; empty if nothing does."""
    found = []
    if around := circle({name: set(file.imports) for name, file in files.items()}):
        found.append(f"files import one another in a circle: {' -> '.join(around)}")
    folders = {".".join(name.split(".")[:depth]) for name in files for depth in range(1, name.count(".") + 1)}
    for package in sorted(folders):
        if around := circle(children(files, package)):
            found.append(f"what lies in {package} imports one another in a circle: {' -> '.join(around)}")
    for file in files.values():
        for program in sorted(file.imports & top_programs(files)):
            if not file.is_door:
                found.append(f"{file.name} imports the program {program}: what they share belongs into a folder")
    return found


def main() -> int:
    """Print every tree from the top down; returns 1 if something breaks the rule."""
    files = read_files()
    for folder in PROGRAM_FOLDERS:
        graph = children(files, folder)
        print(f"{folder}: {', '.join(helpers_at_top(files, folder))}")
        if not circle(graph):
            for name, level in sorted(levels(graph).items(), key=lambda item: (-item[1], item[0])):
                print(f"  {level:>2}  {name}")
    found = faults(files)
    print("\n".join(found) or "imports point downward everywhere")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
