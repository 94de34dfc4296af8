"""Engines bring a Dask cluster up and take it down; `open_executor` alone chooses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from batch_imaging.execution.engines.local import local_executor
from batch_imaging.execution.executor import Executor, SerialExecutor

EngineName = Literal["local", "serial"]


@contextmanager
def open_executor(
    engine: EngineName, n_workers: int, memory_limit_bytes: int
) -> Iterator[Executor]:
    """Yield an executor and end whatever it started.

    Parameters
    ----------
    memory_limit_bytes: of one worker.
    """
    if engine == "serial":
        yield SerialExecutor()
        return
    with local_executor(n_workers, memory_limit_bytes) as executor:
        yield executor
