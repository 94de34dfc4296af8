"""A whole flow led from a worker, where its files are, with its units on the same workers.

The process that starts it may stand where nothing is mounted. If the leading worker dies, another
one begins the flow again: what is led like this keeps a journal and goes on.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distributed import get_worker, worker_client

from batch_imaging.execution.executor import DaskExecutor, Executor
from batch_imaging.execution.progress import Progress, StageRecord

Result = TypeVar("Result")


def conduct(
    executor: Executor,
    progress: Progress,
    flow: Callable[..., Result],
    *arguments: Any,
) -> Result:
    """Return ``flow(executor, progress, *arguments)``, which a worker runs if there are any.

    Raises
    ------
    BatchImagingError: as the flow raises it; EngineError: the workers were lost.
    """
    if not isinstance(executor, DaskExecutor):
        return flow(executor, progress, *arguments)
    topic = f"conducted-{uuid.uuid4()}"
    client, listener = executor.client, progress.listener
    if listener:
        client.subscribe_topic(topic, lambda event: listener(*event[1]))
    try:
        led: _Led[Result] = executor.run(
            _lead, topic, executor.n_workers, executor.native_threads, flow, arguments
        )
    finally:
        if listener:
            client.unsubscribe_topic(topic)
    progress.stages += led.stages
    executor.peak_rss_bytes |= led.peak_rss_bytes
    return led.result


@dataclass(frozen=True, slots=True)
class _Led(Generic[Result]):
    result: Result
    stages: list[StageRecord]
    peak_rss_bytes: dict[str, int]


class _InnerExecutor(DaskExecutor):
    """On the workers among which this one is: they have been set up."""

    def _set_up(self) -> None:
        pass


def _lead(
    topic: str, n_workers: int, threads: int, flow: Callable[..., Result], arguments: Any
) -> _Led[Result]:
    """Run a flow, off the list of this worker's tasks: it goes on taking others (a unit)."""
    worker = get_worker()
    progress = Progress(lambda *told: worker.log_event(topic, told), show_bar=False)
    with worker_client() as client:
        executor = _InnerExecutor(client, n_workers, threads)
        result = flow(executor, progress, *arguments)
    return _Led(result, progress.stages, executor.peak_rss_bytes)
