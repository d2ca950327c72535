"""What a case is, and all of them.

A case builds a canvas of the tasks it is given, starts it, and returns what can be observed: values, errors, states,
notes that tasks left. It says what Celery makes of it; plain tasks and Workers are held to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One canvas and what is to be seen of it."""

    name: str
    play: Callable[[Any, Any], Any]
    expected: Any
    #: Why plain tasks differ, and which (one of these) is seen of them; with none they never come to an end.
    plain: tuple[Any, ...] = ()
    why: str = ""
    #: The first Celery whose plain tasks do as expected.
    since: tuple[int, int] = (5, 5)
    #: Whether it is among the few that are played on every store and result backend.
    core: bool = False
    #: Whether results are looked for by their ids alone, which needs the store as the app's result backend.
    by_id: bool = False
    #: Whether it may be made of Workers and plain tasks in turn.
    mixed: bool = True

    @property
    def never_ends(self) -> bool:
        """Whether Celery leaves it unfinished for ever."""
        return bool(self.why) and not self.plain


class Table(dict[str, Case]):
    """The cases of one family."""

    def case(self, expected: Any, **facts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add the decorated function, ``(tasks, stage)``, as a case named after it."""

        def add(play: Callable[..., Any]) -> Callable[..., Any]:
            name = play.__name__.replace("_", " ")
            assert name not in self
            self[name] = Case(name, play, expected, **facts)
            return play

        return add

    def shape(self, name: str, build: Callable[[Any], Any], expected: Any, **facts: Any) -> None:
        """Add a canvas whose value is all there is to see."""
        assert name not in self
        self[name] = Case(name, lambda tasks, stage: stage.value(build(tasks)), expected, **facts)
