"""Station positions from text files.

One station per line, separated by commas or white space; `#` starts a comment and one header line
is allowed. Two or three numbers are metres east, north (and up) of a reference position, as in
OSKAR's layout files; three that lie about an earth radius from the origin are geocentric (ITRF).
A word before or after the numbers is the station's name.
"""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batch_imaging.errors import DataError
from batch_imaging.model.geometry import GeodeticPosition, itrf_from_enu
from batch_imaging.model.ska_low import (
    SKA1_LOW_CENTRE,
    STATION_DIAMETER_M,
    select_within,
    ska1_low,
)
from batch_imaging.model.stations import StationLayout

# No place on or near the ground is closer to the centre of the earth or further from it.
GEOCENTRIC_RANGE_M = (6.33e6, 6.40e6)

_EXPECTED = "two or three numbers (east, north[, up] or geocentric x, y, z, metres) and a name"


class _Row(NamedTuple):
    line_number: int
    name: str
    position_m: tuple[float, ...]


def load_stations(array: str, diameter_m: float, rmax_m: float) -> StationLayout:
    """Return the stations of "ska1-low" or of a file that are not further out than ``rmax_m``.

    Raises
    ------
    DataError: the file cannot be used.
    ParameterError: fewer than three stations are left.
    """
    if array == "ska1-low":
        layout = ska1_low()
        layout = replace(layout, diameter_m=np.full(len(layout), diameter_m))
    else:
        layout = read_station_file(Path(array), diameter_m=diameter_m)
    return select_within(layout, rmax_m)


def read_station_file(
    path: Path,
    *,
    reference: GeodeticPosition = SKA1_LOW_CENTRE,
    diameter_m: float = STATION_DIAMETER_M,
    array_name: str | None = None,
) -> StationLayout:
    """Read a layout; stations without a name are called S001, S002, …

    Parameters
    ----------
    path: the text file.
    reference: origin of local positions; geocentric ones do not need it.
    diameter_m: diameter of every station.
    array_name: name of the telescope; without it the name of the file.

    Raises
    ------
    DataError: naming file and line of what cannot be used; also for fewer than three stations.
    """
    rows = _read_rows(path)
    if len(rows) < 3:
        raise DataError(f"{path}: {len(rows)} stations; at least three are needed to calibrate")
    _refuse_duplicates(path, rows)

    is_geocentric = [_is_geocentric(row) for row in rows]
    positions_m = np.array([(*row.position_m, 0.0)[:3] for row in rows])
    if any(is_geocentric) and not all(is_geocentric):
        odd = rows[is_geocentric.index(not is_geocentric[0])]
        raise DataError(
            f"{path}, line {odd.line_number}: geocentric and local positions are mixed; "
            "give all stations in one of the two"
        )
    return StationLayout(
        names=tuple(row.name for row in rows),
        itrf_m=positions_m if is_geocentric[0] else itrf_from_enu(positions_m, reference),
        diameter_m=np.full(len(rows), diameter_m),
        array_name=array_name or path.stem,
    )


def _read_rows(path: Path) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: station positions cannot be read: {error}") from error

    rows: list[_Row] = []
    header_allowed = True
    for line_number, line in enumerate(lines, start=1):
        fields = _split(line)
        if not fields:
            continue
        if header_allowed and not any(_is_number(field) for field in fields):
            header_allowed = False
            continue
        header_allowed = False
        rows.append(_parse_row(path, line_number, fields, default_name=f"S{len(rows) + 1:03d}"))
        if len(rows[-1].position_m) != len(rows[0].position_m):
            raise DataError(
                f"{path}, line {line_number}: {len(rows[-1].position_m)} coordinates where line "
                f"{rows[0].line_number} has {len(rows[0].position_m)}"
            )
    return rows


def _split(line: str) -> list[str]:
    content = line.partition("#")[0].strip()
    separator = r"\s*[,;]\s*" if "," in content or ";" in content else r"\s+"
    return [field.strip("\"'") for field in re.split(separator, content)] if content else []


def _parse_row(path: Path, line_number: int, fields: list[str], default_name: str) -> _Row:
    numbers = fields
    name = default_name
    if not _is_number(fields[0]):
        name, numbers = fields[0], fields[1:]
    elif not _is_number(fields[-1]):
        name, numbers = fields[-1], fields[:-1]

    if len(numbers) not in (2, 3) or not all(_is_number(field) for field in numbers) or not name:
        shown = " ".join(fields)[:60]
        raise DataError(f"{path}, line {line_number}: “{shown}” is no station: give {_EXPECTED}")
    position_m = tuple(float(field) for field in numbers)
    if not all(math.isfinite(value) for value in position_m):
        raise DataError(f"{path}, line {line_number}: the position {position_m} is not finite")
    return _Row(line_number, name, position_m)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_geocentric(row: _Row) -> bool:
    nearest_m, furthest_m = GEOCENTRIC_RANGE_M
    return len(row.position_m) == 3 and nearest_m < math.hypot(*row.position_m) < furthest_m


def _refuse_duplicates(path: Path, rows: list[_Row]) -> None:
    line_of_name: dict[str, int] = {}
    line_of_position: dict[tuple[float, ...], int] = {}
    for row in rows:
        first = line_of_name.setdefault(row.name, row.line_number)
        if first != row.line_number:
            raise DataError(
                f"{path}, line {row.line_number}: the name {row.name} is on line {first} already"
            )
        first = line_of_position.setdefault(row.position_m, row.line_number)
        if first != row.line_number:
            raise DataError(
                f"{path}, line {row.line_number}: the same position as on line {first}; "
                "two stations cannot share one"
            )
