"""Sky models: components with a spectrum, points or Gaussians, in intrinsic flux density."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Spectrum(Protocol):
    """Flux density as a function of frequency."""

    def flux_jy(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        """Return the flux density in jansky at each frequency."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """S(ν) = S₀ x^α exp(q ln²x) with x = ν/ν₀, spectral index α and curvature q.

    Callingham et al. 2017, ApJ 836, 174, eq. 2.
    """

    flux_ref_jy: float
    ref_freq_hz: float
    spectral_index: float = 0.0
    curvature: float = 0.0

    def flux_jy(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        log_x = np.log(np.asarray(freq_hz, dtype=float) / self.ref_freq_hz)
        return np.asarray(
            self.flux_ref_jy * np.exp(log_x * (self.spectral_index + self.curvature * log_x))
        )


@dataclass(frozen=True, slots=True)
class TabulatedSpectrum:
    """Flux densities at a list of frequencies (ascending), power laws between and beyond them."""

    freq_hz: tuple[float, ...]
    fluxes_jy: tuple[float, ...]

    def flux_jy(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        nu = np.asarray(freq_hz, dtype=float)
        fluxes = np.asarray(self.fluxes_jy)
        if len(fluxes) == 1:
            return np.full(nu.shape, fluxes[0])
        log_nu, knots = np.log(nu), np.log(np.asarray(self.freq_hz))
        if (fluxes <= 0).any():  # no logarithm to be had: straight lines
            return np.asarray(np.interp(log_nu, knots, fluxes))
        left = np.clip(np.searchsorted(knots, log_nu) - 1, 0, len(knots) - 2)
        log_s = np.log(fluxes)
        slope = (log_s[left + 1] - log_s[left]) / (knots[left + 1] - knots[left])
        return np.asarray(np.exp(log_s[left] + slope * (log_nu - knots[left])))


@dataclass(frozen=True, slots=True)
class PolynomialSpectrum:
    """S(ν) = S₀ + c₁ y + c₂ y² + … with y = ν/ν₀ − 1, or S₀ 10^(c₁ L + c₂ L² + …) with L = lg ν/ν₀.

    The two kinds of WSClean's lists; in the second, logarithmic one, c₁ is the spectral index.
    """

    flux_ref_jy: float
    ref_freq_hz: float
    terms: tuple[float, ...]
    logarithmic: bool

    def flux_jy(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        x = np.asarray(freq_hz, dtype=float) / self.ref_freq_hz
        if self.logarithmic:
            exponent = np.polynomial.polynomial.polyval(np.log10(x), (0.0, *self.terms))
            return np.asarray(self.flux_ref_jy * 10**exponent)
        return np.asarray(np.polynomial.polynomial.polyval(x - 1, (self.flux_ref_jy, *self.terms)))


@dataclass(frozen=True, slots=True)
class SkyComponent:
    """A point, or a Gaussian where ``bmaj_rad`` > 0 (full widths, angle east of north)."""

    name: str
    ra_rad: float
    dec_rad: float
    spectrum: Spectrum
    bmaj_rad: float = 0.0
    bmin_rad: float = 0.0
    bpa_rad: float = 0.0


@dataclass(frozen=True, slots=True)
class SkyModel:
    """A list of components."""

    components: tuple[SkyComponent, ...]

    def __len__(self) -> int:
        return len(self.components)

    @property
    def ra_rad(self) -> NDArray[np.float64]:
        return np.array([c.ra_rad for c in self.components])

    @property
    def dec_rad(self) -> NDArray[np.float64]:
        return np.array([c.dec_rad for c in self.components])

    def flux_jy(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        """Return (component, chan) flux densities, jansky."""
        nu = np.atleast_1d(np.asarray(freq_hz, dtype=float))
        if not self.components:
            return np.zeros((0, len(nu)))
        return np.stack([c.spectrum.flux_jy(nu) for c in self.components])
