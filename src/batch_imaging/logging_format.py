"""How log lines look: as the original workflow printed them, as SKA asks for them, or as JSON.

Nothing here runs at import: a command line or a device's `main` calls `configure_logging` once.
A record says what it is about by `extra={"stage": "ical", "channel": 3}`, with names of `TAGS`, or
is logged inside `log_tags`, which says it for all.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, TextIO

LogFormat = Literal["plain", "ska", "json"]

TAGS = ("eb_id", "pb_id", "stage", "unit", "channel", "worker", "txn_id")
PACKAGE = __name__.partition(".")[0]
FILE_ONLY = {"file_only": True}
"""`extra` of what is too much for a terminal: only log files, and logs of containers, have it."""

_NO_TAGS: Mapping[str, object] = MappingProxyType({})
_around: ContextVar[Mapping[str, object]] = ContextVar("log_tags", default=_NO_TAGS)


@contextmanager
def log_tags(**tags: object) -> Iterator[None]:
    """Tag what this thread logs inside, besides what the tags around it say."""
    token = _around.set({**_around.get(), **tags})
    try:
        yield
    finally:
        _around.reset(token)


def current_tags() -> Mapping[str, object]:
    """Return the tags of `log_tags` around the caller."""
    return _around.get()


def add_tags(record: logging.LogRecord) -> bool:
    """Give a record the tags around the place where it is logged (a filter that lets all pass)."""
    for name, value in _around.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True


class PlainFormatter(logging.Formatter):
    """`INFO:batch_imaging:Running ICAL pipeline`: our modules all go by the package's name.

    What a unit of work says ends with its tags, as in `[stage:ical,unit:7,channel:3,worker:0]`.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        root, _, _ = record.name.partition(".")
        name = PACKAGE if root == PACKAGE else record.name
        line = f"{record.levelname}:{name}:{record.message}"
        return f"{line} [{_shown_tags(record)}]" if hasattr(record, "unit") else line


class SkaFormatter(logging.Formatter):
    """Eight fields between bars on one line, version 1 of the SKA log message standard.

    It allows other characters in some fields than Python does, so `<module>` becomes `module` and
    `ThreadPoolExecutor-0_1` becomes `ThreadPoolExecutor-0-1`.
    """

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record).replace("\r", "\\r").replace("\n", "\\n")
        fields = (
            "1",
            _timestamp(record),
            record.levelname,
            _only("A-Za-z0-9", record.threadName or "")[:32],
            _only("A-Za-z0-9_.", f"{record.name}.{record.funcName}"),
            f"{_only('A-Za-z0-9_.', record.filename)[-64:]}#{record.lineno}",
            _shown_tags(record),
            f" {message}",
        )
        return "|".join(fields)


class JsonFormatter(logging.Formatter):
    """The same fields as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "thread": record.threadName,
            "function": f"{record.name}.{record.funcName}",
            "file": record.filename,
            "line": record.lineno,
            **_tags(record),
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["exception"] = record.exc_text
        return json.dumps(fields, ensure_ascii=False)


def _only(characters: str, text: str) -> str:
    """Put a hyphen in place of all other characters, and none at the ends."""
    return re.sub(f"[^{characters}]+", "-", text).strip("-")


def _timestamp(record: logging.LogRecord) -> str:
    return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def _tags(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(getattr(record, name)) for name in TAGS if hasattr(record, name)}


def _shown_tags(record: logging.LogRecord) -> str:
    tags = _tags(record).items()
    return ",".join(f"{_only('A-Za-z', k)}:{_only('A-Za-z0-9', v)}" for k, v in tags)


FORMATTERS: dict[LogFormat, type[logging.Formatter]] = {
    "plain": PlainFormatter,
    "ska": SkaFormatter,
    "json": JsonFormatter,
}


def is_of_interest(record: logging.LogRecord) -> bool:
    """Tell whether a record is this package's, or a warning (a filter).

    Some packages set their own level when they are imported.
    """
    return record.name.split(".")[0] == PACKAGE or record.levelno >= logging.WARNING


def configure_logging(
    log_format: LogFormat = "plain", level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Send log lines to ``stream`` (default: stderr; containers take stdout).

    ``level`` holds for this package; of other packages only warnings are shown.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    handler.setLevel(level)
    handler.addFilter(add_tags)
    handler.addFilter(is_of_interest)
    handler.addFilter(lambda record: not hasattr(record, "file_only"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(PACKAGE).setLevel(level)
