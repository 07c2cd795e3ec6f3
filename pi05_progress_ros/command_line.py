"""Command lines of programs: read by tyro from frozen dataclasses, and what is wrong with a value told in one line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence

import tyro

from pi05_progress.errors import UserError, run_program


def read_options[T](
    kind: type[T], module: str, text: str, arguments: Sequence[str] | None, check: Callable[[T], None]
) -> T:
    """The options of ``python -m module``, as ``kind``; where they cannot be used the program ends with status 2.

    ``check`` raises a ``UserError`` for values that tyro cannot know to be wrong.
    """
    options = tyro.cli(kind, prog=f"python -m {module}", description=text, args=arguments)
    try:
        check(options)
    except UserError as error:
        print(f"{module.rpartition('.')[2]}: {error}", file=sys.stderr)
        sys.exit(2)
    return options


def check_ranges(options: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise a ``UserError`` if a number is not within its limits, which belong to them; None was not given."""
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {low} to {high}")


def program(name: str, **told: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Makes a function a program's ``main``, which returns the exit status; arguments as of ``run_program``."""

    def decorated(work: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(work)
        def main(*arguments: Sequence[str] | None) -> int:
            return run_program(lambda: work(*arguments), name=name, **told)

        return main

    return decorated
