"""Which units of a run are done: one line of JSON each, written when its result is safe.

A line is appended and forced to disk before the next unit counts; a line that a kill cut short is
dropped when the journal is opened again. A unit is known by its key, made of what its result
depends on, so a changed parameter or input is a different unit and the old line means nothing.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from batch_imaging.errors import ProductError

Stamp = tuple[str, int, int]


def make_key(**depends_on: Any) -> str:
    """Return 32 hexadecimal digits that differ if any of these values, as JSON, differs."""
    text = json.dumps(depends_on, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def stamp_of(path: Path) -> Stamp:
    """Return name, size and latest change of an input, a file or a folder of files.

    Locks are left out: to read a set is not to change it.
    """
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    states = [file.stat() for file in files if file.name != "table.lock"]
    return (
        path.name,
        sum(state.st_size for state in states),
        max((state.st_mtime_ns for state in states), default=0),
    )


@dataclass(slots=True)
class Journal:
    """The last record of every key, as they stand in the file."""

    path: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a journal up to its last whole line; one that is not there is empty.

        Raises
        ------
        ProductError: the file cannot be read, or a whole line is no record.
        """
        journal = cls(path)
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        except OSError as error:
            raise ProductError(
                f"{path}: cannot be read ({error}); see to its permissions"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                journal.records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ProductError(
                    f"{path}, line {number}: is no record; remove the line, and its unit is done "
                    "again"
                ) from error
        return journal

    def mend(self) -> None:
        """Cut off what is left of a line that was never finished."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Add a record and force it to disk.

        Raises
        ------
        ProductError: it cannot be written.
        """
        line = {"key": key, **record}
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, separators=(",", ":")) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ProductError(
                f"{self.path}: cannot be written ({error}); look at the free space and the "
                f"permissions of {self.path.parent}"
            ) from error
        self.records[key] = line
