"""Parts of a cube as users name them: ranges of channels, frequencies, velocities; boxes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import skycoord_to_pixel
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.channels import channels_of
from batch_imaging.pipelines.cubes.schedule import Place
from batch_imaging.pipelines.quantities import parse_quantity


@dataclass(frozen=True, slots=True)
class Selection:
    """A box of a cube; what is None is not cut.

    Attributes
    ----------
    channels: first and last + 1, from zero.
    freq_hz, velocity_km_s: two ends in any order; channels whose centres lie between are taken.
    box: columns and rows of pixels, (x0, x1, y0, y1), the ends excluded.
    sky_box: centre, width and height on the sky.
    rest_freq_hz, convention: of velocities; by default of the header, and radio.
    """

    channels: tuple[int, int] | None = None
    freq_hz: tuple[float, float] | None = None
    velocity_km_s: tuple[float, float] | None = None
    box: tuple[int, int, int, int] | None = None
    sky_box: tuple[SkyCoord, units.Quantity, units.Quantity] | None = None
    rest_freq_hz: float | None = None
    convention: str = "radio"

    def place(self, cube: Any, path: Path) -> Place:
        """Return the pixels of ``cube`` that are selected.

        Raises
        ------
        DataError: there are none, with what there is.
        """
        return self._channels(cube, path), *self._rows_and_columns(cube, path)

    def _channels(self, cube: Any, path: Path) -> slice:
        n_chan = cube.shape[0]
        if self.channels is not None:
            first, stop = self.channels
            if not 0 <= first < stop <= n_chan:
                raise DataError(
                    f"{path}: channels {first}:{stop} are not within 0:{n_chan}, which it has"
                )
            return slice(first, stop)
        if self.freq_hz is not None:
            axis = spectral_axis(cube, "Hz", path, self.rest_freq_hz, self.convention)
            return _between(axis, self.freq_hz, "Hz", path)
        if self.velocity_km_s is not None:
            axis = spectral_axis(cube, "km/s", path, self.rest_freq_hz, self.convention)
            return _between(axis, self.velocity_km_s, "km/s", path)
        return slice(0, n_chan)

    def _rows_and_columns(self, cube: Any, path: Path) -> tuple[slice, slice]:
        _, rows, columns = cube.shape
        if self.sky_box is not None:
            x0, x1, y0, y1 = _pixel_box(cube, *self.sky_box)
        elif self.box is not None:
            x0, x1, y0, y1 = self.box
        else:
            return slice(0, rows), slice(0, columns)
        inside = max(x0, 0), min(x1, columns), max(y0, 0), min(y1, rows)
        if inside[0] >= inside[1] or inside[2] >= inside[3]:
            raise DataError(
                f"{path}: the box of columns {x0}:{x1} and rows {y0}:{y1} lies outside its "
                f"{columns} columns and {rows} rows"
            )
        return slice(inside[2], inside[3]), slice(inside[0], inside[1])


def spectral_axis(
    cube: Any,
    unit: str,
    path: Path,
    rest_freq_hz: float | None = None,
    convention: str = "radio",
) -> NDArray[np.float64]:
    """Return the centres of the channels in Hz or km/s.

    Raises
    ------
    ParameterError: there is no rest frequency.
    """
    axis = cube.spectral_axis
    table = channels_of(cube)
    if table is not None and "Hz" in (unit, axis.unit.to_string()):
        axis = units.Quantity(table["FREQ"], "Hz")  # of which the axis is the best fit
    if axis.unit.is_equivalent(unit):
        if rest_freq_hz is None or unit == "Hz":
            return np.asarray(axis.to_value(unit))
        axis = axis.to("Hz", units.doppler_radio(_rest(cube, None, path)))
    rest = _rest(cube, rest_freq_hz, path)
    doppler = getattr(units, f"doppler_{convention}")
    return np.asarray(axis.to_value(unit, doppler(rest)))


def spectral_axes(
    cube: Any, path: Path, rest_freq_hz: float | None = None, convention: str = "radio"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return frequencies in Hz and velocities in km/s, NaN where they cannot be known."""
    axes = []
    for unit in ("Hz", "km/s"):
        try:
            axes.append(spectral_axis(cube, unit, path, rest_freq_hz, convention))
        except ParameterError:  # no rest frequency
            axes.append(np.full(cube.shape[0], np.nan))
    return axes[0], axes[1]


def _rest(cube: Any, rest_freq_hz: float | None, path: Path) -> units.Quantity:
    rest_freq_hz = rest_freq_hz or cube.wcs.wcs.restfrq
    if not rest_freq_hz:
        raise ParameterError(
            f"{path}: velocities need a rest frequency, and its header has none: give --rest-freq"
        )
    return units.Quantity(rest_freq_hz, "Hz")


def _between(axis: NDArray[np.float64], ends: tuple[float, float], unit: str, path: Path) -> slice:
    low, high = sorted(ends)
    (chosen,) = np.nonzero((axis >= low) & (axis <= high))
    if not len(chosen):
        raise DataError(
            f"{path}: no channel between {low:.9g} and {high:.9g} {unit}: its channels go from "
            f"{axis.min():.9g} to {axis.max():.9g} {unit}"
        )
    return slice(int(chosen[0]), int(chosen[-1]) + 1)


def _pixel_box(
    cube: Any, centre: SkyCoord, width: units.Quantity, height: units.Quantity
) -> tuple[int, int, int, int]:
    wcs = cube.wcs.celestial
    column, row = skycoord_to_pixel(centre, wcs)
    scales = np.abs(wcs.wcs.get_cdelt())
    half_x, half_y = width.to_value("deg") / scales[0] / 2, height.to_value("deg") / scales[1] / 2
    if not np.isfinite([column, row]).all():
        raise DataError(f"{centre.to_string('hmsdms')} is not on this side of the sky")
    edges = column - half_x, column + half_x, row - half_y, row + half_y
    x0, x1, y0, y1 = (round(float(edge) + 0.5) for edge in edges)
    return x0, max(x1, x0 + 1), y0, max(y1, y0 + 1)


def parse_range(text: str, unit: str, option: str) -> tuple[float, float]:
    """Return the two ends of ``1.40GHz:1.43GHz``; numbers without units are in ``unit``.

    Raises
    ------
    ParameterError: it is no range.
    """
    try:
        low, high = (parse_quantity(end, unit) for end in text.split(":"))
        return float(low.value), float(high.value)
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"{option} {text}: give two ends in {unit} or with units, as in 10:20 ({error})"
        ) from error


def parse_direction(text: str) -> SkyCoord:
    """Return an ICRS direction; bare numbers are degrees, with colons hours and degrees."""
    if ":" in text:
        return SkyCoord(text, unit=("hourangle", "deg"))
    plain = all(part.replace(".", "").strip("+-").isdigit() for part in text.split())
    return SkyCoord(text, unit="deg") if plain else SkyCoord(text)


def parse_box(text: str) -> tuple[int, int, int, int]:
    """Return columns and rows of ``x0:x1,y0:y1``.

    Raises
    ------
    ParameterError: it is no box.
    """
    try:
        x0, x1, y0, y1 = (int(end) for ends in text.split(",") for end in ends.split(":"))
    except ValueError as error:
        raise ParameterError(f"--box {text}: give columns and rows, as in 0:100,50:150") from error
    return x0, x1, y0, y1


def parse_sky_box(text: str) -> tuple[SkyCoord, units.Quantity, units.Quantity]:
    """Return centre, width and height of ``187.7 12.39,0.5`` or ``12h30m +12d,30arcmin,20arcmin``.

    Raises
    ------
    ParameterError: it is no box.
    """
    try:
        centre, width, *height = text.split(",")
        sides = (parse_quantity(side, "deg") for side in (width, *(height or [width])))
        return parse_direction(centre), *sides
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"--sky-box {text}: give 'RA DEC,WIDTH,HEIGHT' as in '187.7 12.39,30arcmin,20arcmin' "
            f"({error})"
        ) from error
