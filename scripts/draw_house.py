#!/usr/bin/env python3
"""Draws docs/images/house.svg: every folder of the three trees as a room, higher the more it stands on.

    python scripts/draw_house.py [docs/images/house.svg]

A line goes from a room down to one that it imports. Lines that follow from others are left out, so that those which
remain can be followed. ``house.py`` reads the imports.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

from house import PROGRAM_FOLDERS, ROOT, File, Graph, children, levels, read_files, top_programs

WIDTH, HEIGHT, GAP, STOREY, MARGIN = 118, 32, 12, 76, 24  # of a room, between rooms and storeys, px
STYLE = """
  text { font: 13px sans-serif; text-anchor: middle; fill: #222 }
  .tree { font-weight: bold; font-size: 16px }
  .room { fill: #eef3fb; stroke: #5b7db1 }
  .file { fill: #fbf6ea; stroke: #b1935b }
  .programs { fill: #edf7ee; stroke: #5b9a63 }
  .arrow { fill: none; stroke: #8a94a6; stroke-width: 1.2 }
"""
PROGRAMS = "programs"


def rooms(files: Mapping[str, File], folder: str) -> Graph:
    """What lies at the top of a tree, its programs as one room."""
    graph, programs = children(files, folder), {name.rpartition(".")[2] for name in top_programs(files)}
    merged: Graph = {}
    for name, below in graph.items():
        own = PROGRAMS if f"{folder}.{name}" in top_programs(files) else name
        merged.setdefault(own, set()).update(PROGRAMS if other in programs else other for other in below)
    return {name: below - {name} for name, below in merged.items()}


def without_shortcuts(graph: Graph) -> Graph:
    """The same graph without lines that lead where a longer way leads, too."""

    def reach(name: str) -> set[str]:
        return graph[name] | {far for other in graph[name] for far in reach(other)}

    return {name: below - {far for other in below for far in reach(other)} for name, below in graph.items()}


def draw_tree(files: Mapping[str, File], folder: str, left: int, floor: int) -> tuple[list[str], int]:
    """The SVG elements of one tree and its width; ``floor`` is where the lowest storey stands."""
    graph = rooms(files, folder)
    storeys = levels(graph)
    by_storey = {n: sorted(name for name in graph if storeys[name] == n) for n in set(storeys.values())}
    width = max(len(names) for names in by_storey.values()) * (WIDTH + GAP)
    place = {}
    for storey, names in by_storey.items():
        start = left + (width - len(names) * (WIDTH + GAP)) / 2
        place |= {name: (start + i * (WIDTH + GAP), floor - storey * STOREY) for i, name in enumerate(names)}
    drawn = []
    for name, below in without_shortcuts(graph).items():
        for other in sorted(below):
            (x1, y1), (x2, y2) = place[name], place[other]
            x1, x2, y1 = x1 + WIDTH / 2, x2 + WIDTH / 2, y1 + HEIGHT
            bend = STOREY / 2
            drawn.append(
                f'<path class="arrow" d="M{x1:g},{y1:g} C{x1:g},{y1 + bend:g} {x2:g},{y2 - bend:g} {x2:g},{y2:g}"/>'
            )
    for name, (x, y) in place.items():
        is_folder = any(file.startswith(f"{folder}.{name}.") for file in files)
        kind = PROGRAMS if name == PROGRAMS else "room" if is_folder else "file"
        drawn.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>')
        shown = name + ("/" if kind == "room" else "" if kind == PROGRAMS else ".py")
        drawn.append(f'<text x="{x + WIDTH / 2:g}" y="{y + 21:g}">{escape(shown)}</text>')
    title = folder.replace(".", "/") + "/"
    drawn.append(f'<text class="tree" x="{left + width / 2:g}" y="{floor + HEIGHT + 28:g}">{escape(title)}</text>')
    return drawn, width


def picture(files: Mapping[str, File]) -> str:
    """The whole house as SVG: trees that import nothing of one another beside each other."""
    height = max(max(levels(rooms(files, folder)).values()) for folder in PROGRAM_FOLDERS) * STOREY + HEIGHT
    elements, left = [], MARGIN
    for folder in PROGRAM_FOLDERS:
        drawn, width = draw_tree(files, folder, left, MARGIN + height - HEIGHT)
        elements += drawn
        left += width + 2 * MARGIN
    size = f'width="{left}" height="{height + 3 * MARGIN}" viewBox="0 0 {left} {height + 3 * MARGIN}"'
    body = "\n".join(elements)
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{background}\n{body}\n</svg>\n'


def main() -> None:
    """Write the picture."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images/house.svg"
    target.write_text(picture(read_files()), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
