"""The model that deconvolution builds: pixels whose fluxes are polynomials in frequency."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batch_imaging.model.image import ImageGeometry


@dataclass(frozen=True, slots=True)
class ContinuumModel:
    """The pixels of an image that hold flux.

    S(ν) = Σ_t a_t ((ν − ν₀)/ν₀)^t for every pixel.

    Attributes
    ----------
    geometry: of the image.
    pixels: (pixel,) flat indices, ascending and unique.
    terms_jy: (pixel, term) float64, jansky per pixel.
    ref_freq_hz: ν₀.
    """

    geometry: ImageGeometry
    pixels: NDArray[np.intp]
    terms_jy: NDArray[np.float64]
    ref_freq_hz: float

    @classmethod
    def empty(cls, geometry: ImageGeometry, n_terms: int, ref_freq_hz: float) -> "ContinuumModel":
        """Return a model without flux."""
        return cls(geometry, np.empty(0, dtype=np.intp), np.empty((0, n_terms)), ref_freq_hz)

    def __len__(self) -> int:
        return len(self.pixels)

    def flux_jy(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        """Return (pixel, chan) flux densities."""
        return np.asarray(self.terms_jy @ self._powers(freq_hz).T)

    def plane(self, freq_hz: float) -> NDArray[np.float32]:
        """Return the image at one frequency, (npixel, npixel), Jy/pixel."""
        return self._scatter(self.flux_jy([freq_hz])[:, 0])

    def term_planes(self) -> NDArray[np.float32]:
        """Return (term, npixel, npixel), the coefficients as images."""
        return np.stack([self._scatter(term) for term in self.terms_jy.T])

    def lmn(self) -> NDArray[np.float64]:
        """Return (3, pixel) direction cosines l, m, n − 1 of the pixels."""
        n = self.geometry.npixel
        row, column = np.divmod(self.pixels, n)
        l = -(column - n // 2) * self.geometry.cell_rad
        m = (row - n // 2) * self.geometry.cell_rad
        radius2 = l**2 + m**2
        return np.stack([l, m, -radius2 / (1 + np.sqrt(1 - radius2))])

    def plus(self, planes: NDArray[np.float32], freq_hz: NDArray[np.float64]) -> "ContinuumModel":
        """Return the model with image planes (plane, npixel, npixel) at ``freq_hz`` added.

        Each pixel's fluxes become a polynomial by least squares, of as many terms as the model has
        or as there are planes: a single plane is added at all frequencies alike.
        """
        flat = planes.reshape(len(planes), -1)
        added = np.flatnonzero(flat.any(axis=0))
        n_terms = min(len(planes), self.terms_jy.shape[1])
        return self._with_fit(added, flat[:, added].astype(float), freq_hz, n_terms)

    def refined(
        self, corrections: Sequence["ContinuumModel"], freq_hz: NDArray[np.float64], n_terms: int
    ) -> "ContinuumModel":
        """Return the model with corrections that were found at single frequencies added.

        Of each correction the flux at its own ``freq_hz`` counts; together they become polynomials
        of ``n_terms`` terms, so what varies faster along frequency stays out.
        """
        pixels = np.unique(np.concatenate([c.pixels for c in corrections]))
        fluxes = np.zeros((len(corrections), len(pixels)))
        for row, correction, freq in zip(fluxes, corrections, freq_hz, strict=True):
            row[np.searchsorted(pixels, correction.pixels)] = correction.flux_jy([freq])[:, 0]
        return self._with_fit(pixels, fluxes, freq_hz, n_terms)

    def _with_fit(
        self,
        added: NDArray[np.intp],
        fluxes_jy: NDArray[np.float64],
        freq_hz: NDArray[np.float64],
        n_terms: int,
    ) -> "ContinuumModel":
        """Add polynomials of ``n_terms`` terms through fluxes (frequency, pixel)."""
        x = np.asarray(freq_hz) / self.ref_freq_hz - 1
        fitted = np.linalg.pinv(np.vander(x, n_terms, increasing=True)) @ fluxes_jy
        pixels = np.union1d(self.pixels, added)
        own_terms = self.terms_jy.shape[1]
        terms = np.zeros((len(pixels), max(n_terms, own_terms)))
        terms[np.searchsorted(pixels, self.pixels), :own_terms] += self.terms_jy
        terms[np.searchsorted(pixels, added), :n_terms] += fitted.T
        return ContinuumModel(self.geometry, pixels, terms, self.ref_freq_hz)

    def _powers(self, freq_hz: ArrayLike) -> NDArray[np.float64]:
        x = np.asarray(freq_hz, dtype=float) / self.ref_freq_hz - 1
        return np.vander(x, self.terms_jy.shape[1], increasing=True)

    def _scatter(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        plane = np.zeros(self.geometry.npixel**2, dtype=np.float32)
        plane[self.pixels] = values
        return plane.reshape(self.geometry.shape)
