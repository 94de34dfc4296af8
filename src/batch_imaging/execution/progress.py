"""Stages of a run: a bar on a terminal, else a log line each, and a record of their times.

A listener may be told of every unit that is done.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from batch_imaging.logging_format import log_tags

LOG = logging.getLogger("batch_imaging")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A finished stage: its name, units done, wall-clock seconds."""

    name: str
    units: int
    wall_s: float


@dataclass(slots=True)
class Progress:
    """Collects the stages of a run and shows them as they pass.

    Attributes
    ----------
    listener: called with the name of the stage and the fraction of it that is done, 0 to 1.
    """

    listener: Callable[[str, float], None] | None = None
    show_bar: bool = field(default_factory=sys.stderr.isatty)
    stages: list[StageRecord] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, units: int = 1) -> Iterator["StageBar"]:
        """Time a stage of ``units`` units of work, and tag what they log with its name."""
        begin = time.perf_counter()
        with log_tags(stage=name), _bars(self.show_bar) as bars:
            task = bars.add_task(name, total=units)
            self._tell(name, 0.0)
            yield StageBar(bars, task, lambda done: self._tell(name, min(done / units, 1.0)))
        wall_s = time.perf_counter() - begin
        self.stages.append(StageRecord(name, units, wall_s))
        level = logging.DEBUG if self.show_bar else logging.INFO
        LOG.log(level, "%s: %d units in %.1f s", name, units, wall_s)

    def _tell(self, stage: str, fraction: float) -> None:
        if self.listener:
            self.listener(stage, fraction)


@dataclass(frozen=True, slots=True)
class StageBar:
    """The bar of one stage."""

    bars: Bars
    task: int
    advanced: Callable[[int], None]

    def track(self, results: Iterable[Item]) -> Iterator[Item]:
        """Yield ``results``, advancing the bar by one for each."""
        for done, result in enumerate(results, start=1):
            self.advanced(done)
            self.bars.advance(self.task)  # type: ignore[arg-type]
            yield result


def _bars(show: bool) -> Bars:
    return Bars(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not show,
        transient=True,
    )
