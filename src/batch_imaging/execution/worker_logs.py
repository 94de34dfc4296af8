"""What workers log: each into a file of its own, and warnings to the client at once.

Files have one record a line, in SKA's form, so that `grep` finds a worker, a unit, a channel. A
worker that comes in place of a dead one goes on with its file if it has the same name.
"""

import heapq
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Worker, WorkerPlugin

from batch_imaging.logging_format import (
    FILE_ONLY,
    PACKAGE,
    TAGS,
    SkaFormatter,
    add_tags,
    is_of_interest,
)

LOG = logging.getLogger(__name__)

LOGS = "logs"
"""The folder for logs among the products of a run."""
COMBINED = "workers.log"
PATTERN = "worker-*.log"
_TOPIC = "batch-imaging-log"
_SENT = ("name", "levelno", "levelname", "created", "threadName", "filename", "lineno", "funcName")


class WorkerLog(WorkerPlugin):
    """Sets up logging in every worker, also in those that come later in place of dead ones.

    Parameters
    ----------
    folder: where the files go, as workers see it; None for no files.
    level: what is logged of this package; of others, warnings.
    to_stderr: whether the client does not see the workers' stderr anyway.
    """

    name = "worker-log"

    def __init__(self, folder: Path | None, level: int, *, to_stderr: bool) -> None:
        self._folder = folder
        self._level = level
        self._to_stderr = to_stderr
        self._client = _this_process()
        self._handlers: list[logging.Handler] = []

    def setup(self, worker: Worker) -> None:
        name = _worker_name(worker)
        if self._client != _this_process():
            self._add(_Forward(worker), name)
            if self._to_stderr:
                self._add(logging.StreamHandler(sys.stderr), name)
        logging.getLogger(PACKAGE).setLevel(self._level)
        # Profiles, for a performance report, are too deep to be measured, of which it would warn.
        logging.getLogger("distributed.sizeof").setLevel(logging.ERROR)
        logging.captureWarnings(capture=True)
        if self._folder:
            try:
                self._add(open_log(self._folder / f"worker-{name}.log"), name, "distributed")
            except OSError as error:
                LOG.warning("worker %s: no log file in %s: %s", name, self._folder, error)
        LOG.info("worker %s starts, %s", name, worker.address, extra=FILE_ONLY)

    def teardown(self, worker: Worker) -> None:
        logging.captureWarnings(capture=False)
        for handler in self._handlers:
            for logger in (logging.getLogger(), logging.getLogger("distributed")):
                logger.removeHandler(handler)
            handler.close()
        self._handlers.clear()

    def _add(self, handler: logging.Handler, worker_name: str, *others: str) -> None:
        """Add a handler to the root and to loggers that keep their records from it."""

        def name_worker(record: logging.LogRecord) -> bool:
            if not hasattr(record, "worker"):
                record.worker = worker_name
            return True

        if handler.formatter is None:
            handler.setFormatter(SkaFormatter())
        for wanted in (is_of_interest, _is_no_echo, add_tags, name_worker):
            handler.addFilter(wanted)
        self._handlers.append(handler)
        for logger in ("", *others):
            logging.getLogger(logger).addHandler(handler)


class _Forward(logging.Handler):
    """Sends warnings to the client; those of Dask itself stay in the worker's own log."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker
        self.addFilter(lambda record: not hasattr(record, "file_only"))

    def emit(self, record: logging.LogRecord) -> None:
        attributes = {name: getattr(record, name) for name in _SENT}
        attributes |= {tag: str(getattr(record, tag)) for tag in TAGS if hasattr(record, tag)}
        attributes["msg"] = record.getMessage().rstrip()
        if record.exc_info:
            attributes["exc_text"] = logging.Formatter().formatException(record.exc_info)
        try:
            self._worker.log_event(_TOPIC, {"record": attributes})
        except OSError:  # the connection is closed
            self.handleError(record)


def show_warnings(client: Client) -> None:
    """Log what workers warn of in this process, as if it had been logged here."""

    def show(event: tuple[float, dict[str, Any]]) -> None:
        record = logging.makeLogRecord(event[1]["record"])
        logging.getLogger(record.name).handle(record)

    client.subscribe_topic(_TOPIC, show)


def open_log(path: Path) -> logging.Handler:
    """Return a handler that appends to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(SkaFormatter())
    return handler


@contextmanager
def serial_log(folder: Path, *, combined: bool) -> Iterator[None]:
    """Log what this process does into the file that a worker, or all of them, would have."""
    root, ours = logging.getLogger(), logging.getLogger(PACKAGE)
    level = ours.level
    handler = open_log(folder / (COMBINED if combined else "worker-serial.log"))
    handler.addFilter(add_tags)
    root.addHandler(handler)
    ours.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        ours.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def combine_logs(folder: Path) -> None:
    """Put the files of all workers into one, in the order of time."""
    from batch_imaging.io.fits_image import publishing  # astropy takes a while, and few need it

    whole, parts = folder / COMBINED, sorted(folder.glob(PATTERN))
    with publishing(whole) as partial, ExitStack() as files:
        sources = [*parts, whole] if whole.exists() else parts
        streams = [files.enter_context(path.open(encoding="utf-8")) for path in sources]
        with partial.open("w", encoding="utf-8") as combined:
            combined.writelines(heapq.merge(*streams, key=lambda line: line.split("|", 2)[1:2]))
    for path in parts:
        path.unlink()


def _is_no_echo(record: logging.LogRecord) -> bool:
    """Tell whether a record is not Dask's about a unit that failed, of which we say more."""
    return not (record.name == "distributed.worker" and "Compute Failed" in record.getMessage())


def _this_process() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _worker_name(worker: Worker) -> str:
    """Return the worker's name, or its host (a pod's name) and port if it was given none."""
    name = str(worker.name)
    if name == worker.address or "://" in name:
        name = f"{platform.node()}-{urlsplit(worker.address).port}"
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
