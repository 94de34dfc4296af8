"""Planes brought from one Gaussian beam to a larger one, and the smallest that holds several.

A beam holds another if it can be made of it: if the difference of their covariances has no negative
eigenvalue, which is to say if its ellipse encloses the other's.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, optimize

from batch_imaging.model.beam import FWHM_PER_SIGMA

_REACH = 4  # of the kernel, standard deviations
_SAME = 1e-4  # pixels squared, of the kernel's covariance
_SPARE = 1e-3  # of a common beam's area, so that rounding does not make it too small
_LEAST_KNOWN = 1e-3  # of the kernel, below which a mean is nothing but rounding


def smooth_plane(
    plane: NDArray[np.floating], beam: ArrayLike, wanted: ArrayLike, cell: float
) -> NDArray[np.floating]:
    """Convolve a plane (row, column) with the Gaussian that makes ``wanted`` of ``beam``.

    The Gaussian is known by its transform: sampled in pixels, those narrower than one, as between
    beams that are nearly the same, would be wrong by all they are. It is normalised to a mean over
    the pixels that are known; blank ones stay blank, and nothing is known beyond the edges.

    Parameters
    ----------
    beam, wanted: major and minor full width, in the unit of ``cell``, and angle from north, which
        is up, to east, which is left, degrees.
    """
    covariance = _covariance(wanted, cell) - _covariance(beam, cell)
    if np.abs(covariance).max() < _SAME:
        return plane
    known = np.isfinite(plane)
    margin = int(np.ceil(_REACH * np.sqrt(max(0.0, np.trace(covariance)))))
    sides = [fft.next_fast_len(n + margin, real=True) for n in plane.shape]
    row, column = fft.fftfreq(sides[0])[:, np.newaxis], fft.rfftfreq(sides[1])
    exponent = (
        covariance[0, 0] * row**2
        + 2 * covariance[0, 1] * row * column
        + covariance[1, 1] * column**2
    )
    taper = np.exp(-2 * np.pi**2 * exponent).astype(plane.dtype)

    def convolve(image: NDArray[np.floating]) -> NDArray[np.floating]:
        smooth = fft.irfft2(fft.rfft2(image, sides) * taper, sides)
        return np.asarray(smooth[: plane.shape[0], : plane.shape[1]])

    total = convolve(np.where(known, plane, plane.dtype.type(0)))
    part = convolve(known.astype(plane.dtype))
    sound = known & (part > _LEAST_KNOWN)
    return np.asarray(np.divide(total, part, out=np.full_like(plane, np.nan), where=sound))


def fit_common_beam(beams: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the beam of the smallest area that holds all: one of them, or a new one.

    For each shape and angle it is known how large a beam must be; the smallest is searched among
    them. ``beams`` is (beam, 3): major and minor full width, and angle in degrees.
    """
    different = np.unique(np.asarray(beams, np.float64), axis=0)
    covariances = np.stack([_covariance(beam, 1.0) for beam in different])
    largest = int(np.argmax(np.linalg.det(covariances)))
    spare = np.linalg.eigvalsh(covariances[largest] - covariances)
    if spare.min() >= -1e-9 * covariances[largest].max():
        return np.asarray(different[largest])

    def log_size(shape: NDArray[np.float64]) -> float:
        """Return the logarithm of what the covariance of this shape must be multiplied by."""
        ratio = _unit_covariance(-shape) @ covariances
        half = np.trace(ratio, axis1=1, axis2=2) / 2
        root = np.sqrt(np.maximum(half**2 - np.linalg.det(ratio), 0))
        return float(np.log((half + root).max()))

    major, minor, angle = different[largest]
    double = 2 * np.deg2rad(angle)
    first = np.log(major / minor) * np.array([np.cos(double), -np.sin(double)])
    simplex = first + np.array([[0, 0], [0.1, 0], [0, 0.1]])
    options = {"initial_simplex": simplex, "xatol": 1e-6, "fatol": 1e-8}
    found = optimize.minimize(log_size, first, method="Nelder-Mead", options=options)
    elongation = np.hypot(*found.x)
    size = np.sqrt(np.exp(found.fun) * (1 + _SPARE)) * FWHM_PER_SIGMA
    axes = size * np.exp(elongation / 2), size * np.exp(-elongation / 2)
    return np.array([*axes, np.rad2deg(np.arctan2(-found.x[1], found.x[0])) / 2])


def _unit_covariance(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance of determinant 1 whose logarithm is [[x, y], [y, −x]]."""
    x, y = shape
    length = max(float(np.hypot(x, y)), 1e-12)
    logarithm = np.array([[x, y], [y, -x]])
    return np.asarray(np.cosh(length) * np.eye(2) + np.sinh(length) / length * logarithm)


def _covariance(beam: ArrayLike, cell: float) -> NDArray[np.float64]:
    """Return the 2 × 2 covariance of a beam along rows and columns, in pixels squared."""
    major, minor, angle_deg = np.asarray(beam, np.float64)
    angle = np.deg2rad(angle_deg)
    along = np.array([np.cos(angle), -np.sin(angle)])
    across = np.array([np.sin(angle), np.cos(angle)])
    variances = (np.array([major, minor]) / cell / FWHM_PER_SIGMA) ** 2
    return np.asarray(
        variances[0] * np.outer(along, along) + variances[1] * np.outer(across, across)
    )
