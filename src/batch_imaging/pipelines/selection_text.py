"""What is imaged, as users write it; ``name`` is what they call it: an option or a parameter."""

import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from batch_imaging.errors import ParameterError
from batch_imaging.io.fits_image import STOKES_CODES
from batch_imaging.model.spectral_axis import SpectralRange, parse_ranges
from batch_imaging.pipelines.planes import VelocityAxis

_VELOCITIES = re.compile(r"\s*([-+\d.e]+)\s*,\s*([-+\d.e]+)\s*,\s*(\d+)\s*")
_UNIX_EPOCH_MJD_S = 40_587 * 86_400.0


def parse_names(text: str, name: str) -> tuple[str, ...]:
    """Return the numbers or names of fields or spectral windows in ``0,2`` or ``low,high``.

    Raises
    ------
    ParameterError: one is empty.
    """
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ParameterError(f"{name} {text}: give numbers or names, as in 0,2 or low,high")
    return names


def parse_line_free(text: str) -> tuple[SpectralRange, ...] | Path:
    """Return ranges of channels, frequencies or velocities, or the file that holds them.

    Raises
    ------
    ParameterError: it is neither.
    """
    path = Path(text)
    return path if path.suffix == ".csv" else parse_ranges(text)


def parse_times(text: str, name: str) -> tuple[tuple[float, float], ...]:
    """Return ranges of UTC such as ``2020-06-25T10:00~2020-06-26``, MJD in seconds.

    Raises
    ------
    ParameterError: they are none.
    """
    return tuple(_time_range(part, name) for part in text.split(","))


def parse_stokes(text: str, name: str) -> tuple[str, ...]:
    """Return the names in ``IQUV`` or ``XX,YY``.

    Raises
    ------
    ParameterError: they are no axis of a FITS file.
    """
    names = tuple(text.split(",")) if "," in text or text in STOKES_CODES else tuple(text)
    steps = {
        STOKES_CODES[b] - STOKES_CODES[a]
        for a, b in pairwise(names)
        if a in STOKES_CODES and b in STOKES_CODES
    }
    if set(names) <= set(STOKES_CODES) and len(steps) <= 1 and 0 not in steps:
        return names
    raise ParameterError(
        f"{name} {text}: give I, Q, U, V or products as in XX,YY, in the order of FITS (I Q U V, "
        "RR LL RL LR, XX YY XY YX) and without gaps"
    )


def parse_velocities(text: str, name: str) -> VelocityAxis:
    """Return the axis of ``START,STEP,N`` in km/s.

    Raises
    ------
    ParameterError: it is none.
    """
    found = _VELOCITIES.fullmatch(text)
    try:
        if found is None or float(found[2]) == 0 or int(found[3]) == 0:
            raise ValueError(text)
        return VelocityAxis(1e3 * float(found[1]), 1e3 * float(found[2]), int(found[3]))
    except ValueError as error:
        raise ParameterError(
            f"{name} {text}: give START,STEP,N as in {name}=-300,2,301, km/s"
        ) from error


def _time_range(text: str, name: str) -> tuple[float, float]:
    try:
        begin, end = (datetime.fromisoformat(part.strip()) for part in text.split("~"))
    except ValueError as error:
        raise ParameterError(
            f"{name} {text}: give a range of UTC, as in 2020-06-25T10:00~2020-06-25T12:00"
        ) from error
    return _mjd_s(begin), _mjd_s(end)


def _mjd_s(moment: datetime) -> float:
    utc = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return utc.timestamp() + _UNIX_EPOCH_MJD_S
