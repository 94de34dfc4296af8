"""How log lines look: as the original workflow printed them, as SKA asks for them, or as JSON.

Nothing here runs at import: a command line or a device's `main` calls `configure_logging` once.
A record says what it is about by `extra={"stage": "ical", "channel": 3}`, with names of `TAGS`.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["plain", "ska", "json"]

TAGS = ("eb_id", "pb_id", "stage", "channel", "worker", "txn_id")
PACKAGE = __name__.partition(".")[0]


class PlainFormatter(logging.Formatter):
    """`INFO:batch_imaging:Running ICAL pipeline`: our modules all go by the package's name."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        root, _, _ = record.name.partition(".")
        name = PACKAGE if root == PACKAGE else record.name
        return f"{record.levelname}:{name}:{record.message}"


class SkaFormatter(logging.Formatter):
    """Eight fields between bars on one line, version 1 of the SKA log message standard.

    It allows other characters in some fields than Python does, so `<module>` becomes `module` and
    `ThreadPoolExecutor-0_1` becomes `ThreadPoolExecutor-0-1`.
    """

    def format(self, record: logging.LogRecord) -> str:
        tags = (f"{_only(r'A-Za-z', k)}:{_only(r'A-Za-z0-9', v)}" for k, v in _tags(record).items())
        message = super().format(record).replace("\r", "\\r").replace("\n", "\\n")
        fields = (
            "1",
            _timestamp(record),
            record.levelname,
            _only("A-Za-z0-9", record.threadName or "")[:32],
            _only("A-Za-z0-9_.", f"{record.name}.{record.funcName}"),
            f"{_only('A-Za-z0-9_.', record.filename)[-64:]}#{record.lineno}",
            ",".join(tags),
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
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _only(characters: str, text: str) -> str:
    """Put a hyphen in place of all other characters, and none at the ends."""
    return re.sub(f"[^{characters}]+", "-", text).strip("-")


def _timestamp(record: logging.LogRecord) -> str:
    return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def _tags(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(getattr(record, name)) for name in TAGS if hasattr(record, name)}


FORMATTERS: dict[LogFormat, type[logging.Formatter]] = {
    "plain": PlainFormatter,
    "ska": SkaFormatter,
    "json": JsonFormatter,
}


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == PACKAGE


def configure_logging(
    log_format: LogFormat = "plain", level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Send log lines to ``stream`` (default: stderr; containers take stdout).

    ``level`` holds for this package; of other packages only warnings are shown.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    # A filter, because some packages set their own level when they are imported later.
    handler.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.WARNING)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(PACKAGE).setLevel(level)
