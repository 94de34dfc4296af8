"""Line-free channels as CSV, a row for each field and spectral window.

The columns are field, spw, n_chan and channels, which are ranges as users write them, counted
from zero: ``0~44, 76~127``.
"""

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from batch_imaging.errors import DataError
from batch_imaging.io.fits_image import publishing


@dataclass(frozen=True, slots=True)
class LineFreeChannels:
    """The line-free channels of one field (its name) and spectral window (its number)."""

    field: str
    spw: int
    n_chan: int
    channels: str


_COLUMNS = [column.name for column in fields(LineFreeChannels)]


def write_line_free(path: Path, rows: Sequence[LineFreeChannels]) -> None:
    """Write the file.

    Raises
    ------
    ProductError: it could not be written.
    """
    with publishing(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([_COLUMNS, *map(astuple, rows)])


def read_line_free(path: Path) -> tuple[LineFreeChannels, ...]:
    """Read the file.

    Raises
    ------
    DataError: it cannot be read, or is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return tuple(
                LineFreeChannels(row["field"], int(row["spw"]), int(row["n_chan"]), row["channels"])
                for row in csv.DictReader(stream, strict=True)
            )
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: no table of line-free channels ({error}): its columns are "
            f"{','.join(_COLUMNS)}"
        ) from error
