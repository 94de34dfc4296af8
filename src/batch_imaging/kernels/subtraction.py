"""Polynomials through the channels of spectra, and what they leave: lines.

Spectra are visibilities (one for each row and correlation) or the pixels of a cube. All are fitted
at once by weighted least squares on Legendre polynomials: real and imaginary parts share their
weights, so a complex fit is the fit of both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_legendre

from batch_imaging.errors import DataError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CLIP_ITERATIONS = 10
_MAD_TO_SIGMA = 1.4826
_SINGULAR = 1e-10
_PIXELS_AT_A_TIME = 1 << 16


def make_basis(freq_hz: Floats, order: int) -> Floats:
    """Return (chan, order + 1) Legendre polynomials over the band of these channels."""
    low, high = freq_hz.min(), freq_hz.max()
    x = 2 * (freq_hz - low) / max(high - low, np.finfo(float).tiny) - 1
    return np.stack([eval_legendre(n, x) for n in range(order + 1)], axis=1)


def require_channels(line_free: Mask, order: int, data: str) -> None:
    """Refuse a fit on fewer channels than it has terms, or that would leave nothing.

    Raises
    ------
    DataError: it names ``data`` and the channels that are left.
    """
    left = np.flatnonzero(line_free)
    if len(left) == 0:
        raise DataError(
            f"{data}: all {len(line_free)} channels are flagged or count as line, so no continuum "
            "can be fitted; give line-free ranges with data, or a higher clipping limit"
        )
    if len(left) <= order:
        raise DataError(
            f"{data}: only {len(left)} of {len(line_free)} channels are line-free "
            f"({shown_channels(line_free)}), a polynomial of order {order} needs {order + 1}; "
            "give more of them or a lower order"
        )
    if len(line_free) == order + 1:
        raise DataError(
            f"{data}: a polynomial of order {order} goes through all that {len(line_free)} "
            "channels hold, a line, too; give windows with more channels, or a lower order"
        )


def shown_channels(chosen: Mask) -> str:
    """Return channels as ranges, in the form in which they are given: ``0~9, 20~31``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    return ", ".join(f"{first}~{stop - 1}" for first, stop in edges.reshape(-1, 2))


@dataclass(frozen=True, slots=True)
class PolynomialFit:
    """Polynomials through spectra.

    Attributes
    ----------
    coefficients: (spectrum, term) real or complex; zero where there is no fit.
    fitted: (spectrum,) false where weights leave fewer line-free channels than terms.
    """

    coefficients: NDArray[np.inexact]
    fitted: Mask


def fit_polynomials(
    spectra: NDArray[np.inexact], weight: NDArray[np.floating], line_free: Mask, basis: Floats
) -> PolynomialFit:
    """Fit (spectrum, chan) values on the line-free channels; those of weight zero do not count."""
    used = basis[line_free]
    n_terms = used.shape[1]
    products = (used[:, :, np.newaxis] * used[:, np.newaxis, :]).reshape(len(used), -1)
    wgt = weight[:, line_free].astype(float)
    normal = (wgt @ products).reshape(-1, n_terms, n_terms)
    values = np.where(wgt > 0, spectra[:, line_free], 0)
    right = (values * wgt) @ used
    strength = np.maximum(np.trace(normal, axis1=1, axis2=2), np.finfo(float).tiny)
    normal /= strength[:, np.newaxis, np.newaxis]
    fitted = np.count_nonzero(wgt, axis=1) >= n_terms
    fitted &= np.linalg.eigvalsh(normal)[:, 0] > _SINGULAR
    normal[~fitted] = np.eye(n_terms)
    coefficients = np.linalg.solve(normal, (right / strength[:, np.newaxis])[..., np.newaxis])
    coefficients[~fitted] = 0
    return PolynomialFit(coefficients[..., 0], fitted)


def subtract_fit(
    vis: NDArray[np.complexfloating],
    weight: NDArray[np.floating],
    line_free: Mask,
    basis: Floats,
) -> NDArray[np.complexfloating]:
    """Return visibilities (row, chan, corr) without their continuum.

    Every row (a baseline at an integration) and correlation has a polynomial of its own. One with
    too few channels becomes NaN: its continuum is not known.
    """
    spectra = np.moveaxis(vis, 1, 2).reshape(-1, vis.shape[1])
    weights = np.moveaxis(weight, 1, 2).reshape(spectra.shape)
    fit = fit_polynomials(spectra, weights, line_free, basis)
    rest = spectra - fit.coefficients @ basis.T
    rest[~fit.fitted] = np.nan
    return np.moveaxis(rest.reshape(vis.shape[0], vis.shape[2], -1), 2, 1).astype(vis.dtype)


def clip_lines(
    vis: NDArray[np.complexfloating],
    weight: NDArray[np.floating],
    candidates: Mask,
    basis: Floats,
    sigma: float,
    data: str,
) -> Mask:
    """Return (chan,) the channels without a line, found by clipping.

    A channel's power is the mean of w |V − fit|² over all rows and correlations; channels whose
    power stands ``sigma`` robust standard deviations above the median of those left are taken out,
    their neighbours' fit is made again, until nothing changes. The median absolute deviation
    stands for the standard deviation.

    Raises
    ------
    DataError: too few channels are left; the message names ``data``.
    """
    order = basis.shape[1] - 1
    spectra = np.moveaxis(vis, 1, 2).reshape(-1, vis.shape[1])
    weights = np.moveaxis(weight, 1, 2).reshape(spectra.shape)
    counts = np.count_nonzero(weights, axis=0)
    candidates = candidates & (counts > 0)
    left = candidates
    for _ in range(_CLIP_ITERATIONS):
        require_channels(left, order, data)
        fit = fit_polynomials(spectra, weights, left, basis)
        rest = np.where(weights > 0, np.abs(spectra - fit.coefficients @ basis.T) ** 2, 0)
        rest[~fit.fitted] = 0
        power = (weights * rest).sum(axis=0) / np.maximum(counts, 1)
        middle = np.median(power[left])
        spread = _MAD_TO_SIGMA * np.median(np.abs(power[left] - middle))
        now = candidates & (power <= middle + sigma * spread)
        if np.array_equal(now, left):
            break
        left = now
    require_channels(left, order, data)
    return left


def subtract_image_continuum(
    cube: NDArray[np.floating], freq_hz: Floats, line_free: Mask, order: int
) -> NDArray[np.floating]:
    """Return the cube (chan, row, column) without a polynomial of each pixel.

    NaN does not count; a pixel with fewer line-free channels than terms becomes NaN.

    Raises
    ------
    DataError: too few channels are chosen, or hold a number in any pixel.
    """
    pixels = cube.reshape(len(cube), -1)
    require_channels(line_free & np.isfinite(pixels).any(axis=1), order, "the cube")
    basis = make_basis(freq_hz, order)
    rest = np.empty_like(pixels)
    for first in range(0, pixels.shape[1], _PIXELS_AT_A_TIME):
        part = pixels[:, first : first + _PIXELS_AT_A_TIME].T
        fit = fit_polynomials(part, np.isfinite(part).astype(np.float32), line_free, basis)
        without = part - fit.coefficients @ basis.T
        without[~fit.fitted] = np.nan
        rest[:, first : first + _PIXELS_AT_A_TIME] = without.T
    return rest.reshape(cube.shape)
