"""A workflow as files and commands: what each job reads, runs and writes, and in which order.

Phases follow each other; so do the stages of a phase; the nodes of a stage run at the same time.
How often something is repeated may come out only on the way: it stands in the graph as often as it
may happen, and from the first phase on whose condition does not hold, none is run.
The same graph is run here by `run_graph`, by HTCondor (`dagman`) and by SLURM (`slurm_array`).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress

_DIGITS = {"--cycle": 2, "--part": 4}  # in the names of nodes


@dataclass(frozen=True, slots=True)
class Node:
    """One job: `batch-imaging unit <step> <options>` in the folder of the workflow.

    Attributes
    ----------
    options: with their numbers, as in ("--cycle", 2).
    inputs, outputs: names in the folder; inputs from elsewhere by their absolute path.
    """

    step: str
    options: tuple[tuple[str, int], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    memory_bytes: float
    disk_bytes: float

    @property
    def name(self) -> str:
        return "-".join([self.step, *(f"{n:0{_DIGITS[option]}}" for option, n in self.options)])

    @property
    def arguments(self) -> str:
        """What follows `batch-imaging unit`."""
        return " ".join([self.step, *(f"{option} {number}" for option, number in self.options)])


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds if the JSON file is there and its "status" is this one."""

    file: str
    status: str

    def holds(self, folder: Path) -> bool:
        path = folder / self.file
        return path.exists() and json.loads(path.read_text())["status"] == self.status


@dataclass(frozen=True, slots=True)
class Stage:
    """Nodes that depend on those of the stage before, not on each other."""

    name: str
    nodes: tuple[Node, ...]
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """Stages that stand in a file of their own where a batch system runs them."""

    name: str
    stages: tuple[Stage, ...]
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole workflow, and the processors of each job."""

    phases: tuple[Phase, ...]
    cpus: int

    def stages(self) -> Iterator[Stage]:
        """Yield all stages in their order."""
        for phase in self.phases:
            yield from phase.stages

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes in an order in which they may run."""
        for stage in self.stages():
            yield from stage.nodes


def run_graph(
    graph: Graph,
    run_node: Callable[[Node, Path], object],
    folder: Path,
    executor: Executor,
    progress: Progress,
) -> None:
    """Run the nodes of a graph on an executor whose workers all see ``folder``."""
    for phase in graph.phases:
        if phase.when and not phase.when.holds(folder):
            break
        for stage in phase.stages:
            if stage.when and not stage.when.holds(folder):
                continue
            with progress.stage(stage.name, len(stage.nodes)) as bar:
                for _ in bar.track(executor.map(run_node, stage.nodes, folder)):
                    pass
