"""Tasks of the simulated robot: what lies on the table, what is asked, what counts as done."""

from __future__ import annotations

from pi05_progress.errors import UserError

from .base import Task
from .cubes import LiftCube, StackCubes
from .place_in_basket import PlaceInBasket

TASKS: dict[str, type[Task]] = {task.name: task for task in (StackCubes, PlaceInBasket, LiftCube)}


def make_task(name: str) -> Task:
    """A fresh task by name; a ``UserError`` lists those there are."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}")
    return TASKS[name]()


__all__ = ["TASKS", "Task", "make_task"]
