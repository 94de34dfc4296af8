"""Spectral axes: channels with widths, a frame, a rest frequency, and the way between frames.

Frames differ by the velocity of the observer along the line of sight: TOPO is the telescope, BARY
the barycentre of the solar system, LSRK the kinematic local standard of rest, in which the sun
moves at 20 km/s towards 18h, +30° of 1900. Only the radial part counts (Greisen et al. 2006,
A&A 446, 747, "Paper III"), as in astropy's SpectralCoord and in CASA:
ν_TOPO = ν_F √((1 + V/c)/(1 − V/c)) for an observer who approaches the source with V in frame F.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import erfa
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import (
    EARTH_ROTATION_RAD_S,
    MJD_ZERO_JD,
    SECONDS_PER_DAY,
    celestial_to_terrestrial,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Frame = Literal["TOPO", "BARY", "LSRK"]
Convention = Literal["radio", "optical"]
FRAMES: tuple[Frame, ...] = get_args(Frame)

_AU_PER_DAY_M_S = erfa.DAU / erfa.DAYSEC
# 20 km/s towards RA 270°, Dec +30° (B1900), along the axes of ICRS.
_SUN_IN_LSRK_M_S = np.array([289.997068, -17_317.264790, 10_001.411995])
_COVERED_AT_LEAST = 0.5

_HZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}
_M_S = {"m/s": 1.0, "km/s": 1e3}
_RANGE = re.compile(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*~\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(\S*)\s*")


@dataclass(frozen=True, slots=True)
class SpectralRange:
    """Channels by number ("chan", both ends belong to it), frequency ("Hz") or velocity ("m/s")."""

    low: float
    high: float
    unit: Literal["chan", "Hz", "m/s"]


def parse_ranges(text: str) -> tuple[SpectralRange, ...]:
    """Read ranges such as ``0~99, 1.41~1.42GHz, -300~-120km/s``.

    Raises
    ------
    ParameterError: a range is none; it says which.
    """
    return tuple(_parse_range(part) for part in text.split(","))


def _parse_range(text: str) -> SpectralRange:
    wrong = ParameterError(
        f"{text.strip()!r} is no spectral range; write a~b for channels, or a~b with a unit: "
        "Hz, kHz, MHz, GHz, m/s or km/s"
    )
    found = _RANGE.fullmatch(text)
    if found is None:
        raise wrong
    unit = found[3].lower()
    try:
        low, high = sorted((float(found[1]), float(found[2])))
    except ValueError as error:
        raise wrong from error
    if not unit and low >= 0 and low.is_integer() and high.is_integer():
        return SpectralRange(low, high, "chan")
    if unit in _HZ:
        return SpectralRange(low * _HZ[unit], high * _HZ[unit], "Hz")
    if unit in _M_S:
        return SpectralRange(low * _M_S[unit], high * _M_S[unit], "m/s")
    raise wrong


@dataclass(frozen=True, slots=True, eq=False)
class SpectralAxis:
    """Channels in the order of the data, of any widths and with any gaps between them.

    Attributes
    ----------
    freq_hz, width_hz: (chan,) centres and positive widths.
    frame: in which these frequencies hold.
    rest_freq_hz: of the line that velocities belong to.
    mask: (chan,) bool, true where a channel holds no data; None if all do.
    """

    freq_hz: Floats
    width_hz: Floats
    frame: Frame = "TOPO"
    rest_freq_hz: float | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.freq_hz, self.width_hz, self.good)}
        if len(shapes) > 1 or self.freq_hz.ndim != 1 or not (self.width_hz > 0).all():
            raise ValueError("a spectral axis needs one frequency, width > 0 and mask a channel")

    @classmethod
    def from_velocities(
        cls,
        start_m_s: float,
        step_m_s: float,
        n_chan: int,
        *,
        rest_freq_hz: float,
        frame: Frame = "LSRK",
        convention: Convention = "radio",
    ) -> "SpectralAxis":
        """Return channels at equal steps of velocity, the first centred on ``start_m_s``."""
        edges_m_s = start_m_s + step_m_s * (np.arange(n_chan + 1) - 0.5)
        edges_hz = freq_from_velocity(edges_m_s, rest_freq_hz, convention)
        centre_hz = (edges_hz[1:] + edges_hz[:-1]) / 2
        return cls(centre_hz, np.abs(np.diff(edges_hz)), frame, rest_freq_hz)

    def __len__(self) -> int:
        return len(self.freq_hz)

    @property
    def good(self) -> Mask:
        """(chan,) true where a channel holds data."""
        return np.ones(self.freq_hz.shape, dtype=bool) if self.mask is None else ~self.mask

    def velocity_m_s(self, convention: Convention = "radio") -> Floats:
        """Return (chan,) velocities of the rest frequency, positive for what recedes."""
        if self.rest_freq_hz is None:
            raise ParameterError(
                "velocities need the rest frequency of the line, and none is known; give it"
            )
        return velocity_from_freq(self.freq_hz, self.rest_freq_hz, convention)

    def shifted(self, frame: Frame, factor: float) -> "SpectralAxis":
        """Return the axis in another frame; ``factor`` is that of :func:`doppler_factor`."""
        return replace(
            self, freq_hz=self.freq_hz * factor, width_hz=self.width_hz * factor, frame=frame
        )

    def select(self, ranges: Sequence[SpectralRange], convention: Convention = "radio") -> Mask:
        """Return (chan,) true for channels that hold data and whose centre is in a range.

        Raises
        ------
        DataError: no channel is.
        """
        inside = np.zeros(len(self), dtype=bool)
        for wanted in ranges:
            if wanted.unit == "chan":
                position = np.arange(len(self), dtype=float)
            elif wanted.unit == "Hz":
                position = self.freq_hz
            else:
                position = self.velocity_m_s(convention)
            inside |= (position >= wanted.low) & (position <= wanted.high)
        inside &= self.good
        if not inside.any():
            first_hz, last_hz = self.freq_hz.min(), self.freq_hz.max()
            raise DataError(
                f"the spectral ranges hold none of the {len(self)} channels between "
                f"{first_hz / 1e6:.6f} and {last_hz / 1e6:.6f} MHz ({self.frame}), or only masked "
                "ones; give others"
            )
        return inside

    def weights_onto(self, target: "SpectralAxis") -> csr_array:
        """Return the matrix (target, chan) that averages these channels into those of ``target``.

        A row holds the shares of its channel that the unmasked channels here cover, and sums to 1;
        it is empty where less than half is covered. Between channels of one width this is linear
        interpolation; where widths differ, the integral of a line is kept.
        """
        if self.frame != target.frame:
            raise ValueError(f"from {self.frame} to {target.frame}: shift the axis first")
        low, high = self.freq_hz - self.width_hz / 2, self.freq_hz + self.width_hz / 2
        first = target.freq_hz[:, np.newaxis] - target.width_hz[:, np.newaxis] / 2
        last = first + target.width_hz[:, np.newaxis]
        overlap_hz = np.minimum(high, last) - np.maximum(low, first)
        overlap_hz = np.where(self.good & (overlap_hz > 0), overlap_hz, 0.0)
        covered_hz = overlap_hz.sum(axis=1)
        enough = covered_hz >= _COVERED_AT_LEAST * target.width_hz * (1 - 1e-9)
        share = np.zeros_like(covered_hz)
        np.divide(1.0, covered_hz, out=share, where=enough)
        return csr_array(overlap_hz * share[:, np.newaxis])


def velocity_from_freq(
    freq_hz: ArrayLike, rest_freq_hz: float, convention: Convention = "radio"
) -> Floats:
    """Return c (1 − ν/ν₀), the radio velocity, or c (ν₀/ν − 1), the optical one."""
    ratio = np.asarray(freq_hz, dtype=float) / rest_freq_hz
    return np.asarray(SPEED_OF_LIGHT_M_S * (1 - ratio if convention == "radio" else 1 / ratio - 1))


def freq_from_velocity(
    velocity_m_s: ArrayLike, rest_freq_hz: float, convention: Convention = "radio"
) -> Floats:
    """Return the frequencies of radio or optical velocities."""
    beta = np.asarray(velocity_m_s, dtype=float) / SPEED_OF_LIGHT_M_S
    return np.asarray(rest_freq_hz * (1 - beta if convention == "radio" else 1 / (1 + beta)))


def doppler_factor(
    source: Frame,
    target: Frame,
    time_mjd_s: ArrayLike,
    direction: Direction,
    itrf_m: Floats,
) -> Floats:
    """Return by what frequencies in ``source`` are multiplied to hold in ``target``.

    Parameters
    ----------
    time_mjd_s: (…) UTC, modified Julian date in seconds.
    itrf_m: (3,) geocentric position of the telescope, metres.
    """
    times = np.asarray(time_mjd_s, dtype=float)
    to_topo = _topo_over(source, times, direction, itrf_m)
    return np.asarray(to_topo / _topo_over(target, times, direction, itrf_m))


def _topo_over(frame: Frame, time_mjd_s: Floats, direction: Direction, itrf_m: Floats) -> Floats:
    """Return ν_TOPO / ν_frame."""
    if frame == "TOPO":
        return np.ones(time_mjd_s.shape)
    velocity_m_s = _telescope_velocity_m_s(time_mjd_s, itrf_m)
    if frame == "LSRK":
        velocity_m_s = velocity_m_s + _SUN_IN_LSRK_M_S
    cos_dec = np.cos(direction.dec_rad)
    towards = np.array(
        [
            cos_dec * np.cos(direction.ra_rad),
            cos_dec * np.sin(direction.ra_rad),
            np.sin(direction.dec_rad),
        ]
    )
    beta = velocity_m_s @ towards / SPEED_OF_LIGHT_M_S
    return np.asarray(np.sqrt((1 + beta) / (1 - beta)))


def _telescope_velocity_m_s(time_mjd_s: Floats, itrf_m: Floats) -> Floats:
    """Return (…, 3) the velocity about the barycentre of the solar system, along ICRS axes."""
    utc = MJD_ZERO_JD, time_mjd_s / SECONDS_PER_DAY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)  # “dubious year” of leap seconds
        _, earth = erfa.epv00(*erfa.taitt(*erfa.utctai(*utc)))  # TT for TDB: 2 ms
    spin_m_s = EARTH_ROTATION_RAD_S * np.array([-itrf_m[1], itrf_m[0], 0.0])
    turned = np.einsum("...ij,i->...j", celestial_to_terrestrial(time_mjd_s), spin_m_s)
    return np.asarray(earth["v"] * _AU_PER_DAY_M_S + turned)
