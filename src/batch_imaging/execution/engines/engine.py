"""What an engine is, and how one is used: started, watched, stopped."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import dask

from batch_imaging.errors import ClusterStartTimeout, EngineError
from batch_imaging.execution.engines.address import address_executor
from batch_imaging.execution.engines.settings import dask_settings
from batch_imaging.execution.executor import DaskExecutor

LOG = logging.getLogger(__name__)

WATCH_S = 2.0
LAST_LINES = 20


class Engine(Protocol):
    """A platform that runs a Dask scheduler and workers; `engine_executor` is its only caller.

    Attributes
    ----------
    cores: of a worker.
    """

    cores: int

    def start(self, n_workers: int, deadline_s: float) -> str:
        """Ask the platform for workers and return the address of the scheduler.

        Raises
        ------
        EngineError: the platform refuses, in its own words.
        """

    def trouble(self) -> str:
        """Return what the platform says of workers that are not there.

        Raises
        ------
        EngineError: they never will be.
        """

    def scale(self, n_workers: int) -> None:
        """Have so many workers, in place of those that the platform ended too."""

    def logs(self) -> dict[str, str]:
        """Return what workers wrote, also those that are dead, by name."""

    def stop(self) -> None:
        """End everything that was started, as far as it was."""


@contextmanager
def engine_executor(engine: Engine, n_workers: int, deadline_s: float) -> Iterator[DaskExecutor]:
    """Start an engine, yield an executor on its workers, replace those that end, stop it.

    Raises
    ------
    EngineError: with the platform's reason; the last words of the workers are in the log.
    """
    begin = time.monotonic()
    with dask.config.set(dask_settings()):
        try:
            address = engine.start(n_workers, deadline_s)
            left_s = deadline_s - (time.monotonic() - begin)
            with (
                address_executor(
                    address, n_workers, left_s, engine.trouble, engine.cores
                ) as executor,
                _watched(engine, n_workers),
            ):
                LOG.info("%d workers after %.1f s", n_workers, time.monotonic() - begin)
                yield executor
        except EngineError:
            for name, text in engine.logs().items():
                LOG.error("last words of %s:\n%s", name, last_lines(text))  # noqa: TRY400
            raise
        finally:
            engine.stop()


@contextmanager
def _watched(engine: Engine, n_workers: int) -> Iterator[None]:
    """Have lost workers replaced all the while."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_S):
            try:
                engine.scale(n_workers)
            except EngineError as error:
                LOG.warning("lost workers are not replaced yet: %s", error)

    thread = threading.Thread(target=watch, name="engine-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def last_lines(text: str) -> str:
    """Return the end of a log."""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def wait_until(is_true: Callable[[], bool], deadline_s: float, otherwise: str) -> None:
    """Wait for a condition.

    Raises
    ------
    ClusterStartTimeout: it did not come true in time.
    """
    deadline = time.monotonic() + deadline_s
    while not is_true():
        if time.monotonic() > deadline:
            raise ClusterStartTimeout(f"{otherwise} within {deadline_s:g} s")
        time.sleep(0.2)
