"""What is known of a run when its report is written, whether it finished or not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from batch_imaging.execution.progress import StageRecord
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.batch import BatchResult, Buffers, RunIdentity
from batch_imaging.pipelines.simulate import SimulationResult


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: what it was asked, what it has made so far, how it went.

    Attributes
    ----------
    started, finished: UTC.
    sets: Measurement Sets that were given; without any, those of the simulation were imaged.
    peak_rss_bytes: highest memory by `host:process id`.
    engine: as the user named it.
    error: what ended the run early, in the words of the error; empty if nothing did.
    """

    parameters: Parameters
    identity: RunIdentity
    buffers: Buffers
    result: BatchResult
    started: datetime
    finished: datetime
    sets: tuple[Path, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    peak_rss_bytes: Mapping[str, int] = field(default_factory=dict)
    engine: str = "local"
    error: str = ""

    @property
    def wall_s(self) -> float:
        """Seconds from start to finish."""
        return (self.finished - self.started).total_seconds()

    @property
    def outcome(self) -> str:
        return "failed" if self.error else "finished"

    @property
    def input_sets(self) -> tuple[Path, ...]:
        """The Measurement Sets that were imaged."""
        return self.sets or (self.result.simulation.sets if self.result.simulation else ())

    @property
    def truth(self) -> SimulationResult | None:
        """What was put into the data that were imaged, where that is known."""
        return None if self.sets else self.result.simulation
