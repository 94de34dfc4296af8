"""Sky components and images to visibilities, each by whichever way costs less.

Points: the antenna-factored product of `components`, or a transform between scattered points (a
type-3 NUFFT, ducc0), which needs no grid on the sky and no stations. Gaussians: row by row, or as
lattices of points dense enough that the sum is the integral. Spectra are low-rank: the transform
runs once for a few spectral shapes that span all, not once a channel. Images are degridded, each
plane to the channels it has a share in.
"""

from dataclasses import dataclass
from typing import Literal

import ducc0
import numpy as np
from numpy.typing import NDArray

from batch_imaging.kernels.components import BaselineFactors, predict_gaussian, predict_points
from batch_imaging.kernels.gridding import predict_image
from batch_imaging.model.beam import FWHM_PER_SIGMA, SPEED_OF_LIGHT_M_S
from batch_imaging.model.image import ImageGeometry

Floats = NDArray[np.float64]
Way = Literal["product", "degrid"]

ACCURACY = 1e-7
_LATTICE_REACH = 5.5  # standard deviations: 3e-7 of the flux lie beyond
_LATTICE_MARGIN = 0.95  # in 1/σ: aliases of the lattice stay below 2e-8
_RANK_LIMIT = 1e-9  # of spectra, relative to the strongest shape
_TYPICAL_RANK = 3

# Of one core, a second holds so many …
_PRODUCTS_PER_S = 5e9  # visibilities × points, single precision
_PHASES_PER_S = 4e7  # stations × points
_ENVELOPES_PER_S = 1.2e7  # visibilities × Gaussians
_TRANSFORMED_PER_S = 1.2e6  # points or visibilities through the NUFFT
_CELLS_PER_S = 4e7  # of its grid
_MOST_CELLS = 5e7  # 800 MB
_PLANE_S = 0.3  # of 1024² pixels
_DEGRIDDED_PER_S = 2e6  # visibilities


@dataclass(frozen=True, slots=True)
class Components:
    """Points and Gaussians about one phase centre.

    Attributes
    ----------
    lmn: (3, component) l, m, n − 1.
    flux_jy: (component, chan).
    widths_rad: (component, 3) major and minor full width, angle east of north; 0, 0, 0 of a point.
    """

    lmn: Floats
    flux_jy: Floats
    widths_rad: Floats

    @property
    def extended(self) -> NDArray[np.bool_]:
        """(component,) true for Gaussians."""
        return np.asarray(self.widths_rad[:, 0] > 0)

    def select(self, chosen: NDArray[np.bool_]) -> "Components":
        return Components(self.lmn[:, chosen], self.flux_jy[chosen], self.widths_rad[chosen])


def cost_of_product_s(
    n_points: int, n_gaussians: int, n_rows: int, n_chan: int, n_stations: int, n_times: int
) -> float:
    """Return about how many seconds of one core the product, and Gaussians row by row, take."""
    return n_times * n_chan * n_stations * n_points / _PHASES_PER_S + n_rows * n_chan * (
        n_points / _PRODUCTS_PER_S + n_gaussians / _ENVELOPES_PER_S
    )


def cost_of_degridding_s(
    components: Components, longest_m: Floats, freq_hz: Floats, n_rows: int
) -> float:
    """Return about how many seconds of one core the NUFFT takes; infinite if it does not fit.

    ``longest_m`` are the largest |u|, |v| and |w|.
    """
    longest = longest_m * freq_hz.max() / SPEED_OF_LIGHT_M_S
    cells = _grid_cells(components, longest)
    if cells > _MOST_CELLS:
        return float("inf")
    widths_rad = components.widths_rad[components.extended]
    n_points = len(components.widths_rad) - len(widths_rad)
    n_points += int(_lattice_points(widths_rad, float(longest[:2].max())).sum())
    scattered = n_points + n_rows * len(freq_hz)
    return min(len(freq_hz), _TYPICAL_RANK) * (
        scattered / _TRANSFORMED_PER_S + cells / _CELLS_PER_S
    )


def _grid_cells(components: Components, longest: Floats) -> float:
    """Return the size of the NUFFT's grid, for baselines up to ``longest`` (u, v, w in λ)."""
    if components.lmn.shape[1] == 0:
        return 0.0
    # Four cells a cycle and twice oversampled, and the kernel's support.
    return float(np.prod(8 * np.ptp(components.lmn, axis=1) * longest + 24))


def predict_components(
    components: Components,
    uvw_m: Floats,
    freq_hz: Floats,
    factors: BaselineFactors | None,
    way: Way,
    *,
    threads: int = 1,
) -> NDArray[np.complexfloating]:
    """Return the visibilities of all components, (row, chan).

    Parameters
    ----------
    factors: of the rows; None where they are no differences of stations: then they are degridded
        if that fits, else all components are summed row by row.
    """
    if factors is None:
        longest = np.abs(uvw_m).max(axis=0, initial=0) * freq_hz.max() / SPEED_OF_LIGHT_M_S
        way = "degrid" if _grid_cells(components, longest) <= _MOST_CELLS else way
    if way == "degrid":
        return _degrid(components, uvw_m, freq_hz, threads)
    row_by_row = components.extended | (factors is None)
    vis: NDArray[np.complexfloating] = np.zeros((len(uvw_m), len(freq_hz)), dtype=np.complex64)
    if factors is not None:
        points = components.select(~row_by_row)
        vis = predict_points(factors, freq_hz, points.lmn, points.flux_jy, double=False)
    for k in np.flatnonzero(row_by_row):
        bmaj, bmin, bpa = map(float, components.widths_rad[k])
        vis += predict_gaussian(
            uvw_m, freq_hz, components.lmn[:, k], components.flux_jy[k], (bmaj, bmin, bpa)
        ).astype(vis.dtype)
    return vis


def _degrid(
    components: Components, uvw_m: Floats, freq_hz: Floats, threads: int
) -> NDArray[np.complex128]:
    """Return Σ_k S_k exp(−2πi ν/c (u l + v m + w (n − 1))) by a NUFFT for each spectral shape."""
    vis = np.zeros((len(uvw_m), len(freq_hz)), dtype=np.complex128)
    if len(components.widths_rad) == 0 or len(uvw_m) == 0:
        return vis
    per_m = freq_hz / SPEED_OF_LIGHT_M_S
    points = _as_points(components, float(np.abs(uvw_m[:, :2]).max() * per_m.max()))
    left, strength, shapes = np.linalg.svd(points.flux_jy, full_matrices=False)
    rank = int(np.count_nonzero(strength > _RANK_LIMIT * strength[0]))
    turns = (uvw_m[:, np.newaxis] * per_m[:, np.newaxis]).reshape(-1, 3)
    for amount, shape in zip((left * strength).T[:rank], shapes[:rank], strict=True):
        part = ducc0.nufft.experimental.nu2nu(
            points_in=amount.astype(np.complex128),
            coord_in=np.ascontiguousarray(points.lmn.T * 2 * np.pi),
            coord_out=turns,
            forward=True,
            epsilon=ACCURACY / 10,
            nthreads=threads,
        )
        vis += part.reshape(vis.shape) * shape
    return vis


def _as_points(components: Components, longest: float) -> Components:
    """Return points alone: Gaussians become lattices, for baselines up to ``longest`` (λ)."""
    extended = components.extended
    points = components.select(~extended)
    lmn, flux_jy = [points.lmn], [points.flux_jy]
    for k in np.flatnonzero(extended):
        offset_lm, share = _lattice(components.widths_rad[k], longest)
        l, m, n_minus_1 = components.lmn[:, k]
        tilt = -np.array([l, m]) / (1 + n_minus_1)  # flat across the source, as predict_gaussian's
        lmn.append(components.lmn[:, [k]] + np.stack([*offset_lm, tilt @ offset_lm]))
        flux_jy.append(share[:, np.newaxis] * components.flux_jy[k])
    flux = np.concatenate(flux_jy)
    return Components(np.concatenate(lmn, axis=1), flux, np.zeros((len(flux), 3)))


def _lattice_counts(widths_rad: Floats, longest: float) -> NDArray[np.intp]:
    """Return (…, 2) how many lattice points lie on each side of the centre, along both axes."""
    sigma = widths_rad[..., :2] / FWHM_PER_SIGMA
    # The first alias, 1/step − longest away, must be weak; so the step follows σ and the baseline.
    return np.ceil(_LATTICE_REACH * (sigma * longest + _LATTICE_MARGIN)).astype(np.intp)


def _lattice_points(widths_rad: Floats, longest: float) -> NDArray[np.intp]:
    """Return how many points the lattice of each Gaussian has."""
    return np.asarray(np.prod(2 * _lattice_counts(widths_rad, longest) + 1, axis=-1))


def _lattice(widths_rad: Floats, longest: float) -> tuple[Floats, Floats]:
    """Return offsets (2, point) in l and m, and the share of the flux of each point."""
    n_major, n_minor = _lattice_counts(widths_rad, longest)
    major = np.linspace(-_LATTICE_REACH, _LATTICE_REACH, 2 * n_major + 1)
    minor = np.linspace(-_LATTICE_REACH, _LATTICE_REACH, 2 * n_minor + 1)
    a, b = np.meshgrid(major, minor, indexing="ij")
    share = np.exp(-(a**2 + b**2) / 2).ravel()
    along, across = (
        x.ravel() * width / FWHM_PER_SIGMA for x, width in zip((a, b), widths_rad, strict=False)
    )
    sin, cos = np.sin(widths_rad[2]), np.cos(widths_rad[2])
    return np.stack([along * sin + across * cos, along * cos - across * sin]), share / share.sum()


def cost_of_planes_s(npixel: int, n_planes: int, samples: int) -> float:
    """Return about how many seconds of one core degridding takes, each channel from two planes."""
    plane_s = _PLANE_S * (npixel / 1024) ** 2
    return n_planes * plane_s + min(n_planes, 2) * samples / _DEGRIDDED_PER_S


def predict_planes(
    planes: NDArray[np.floating],
    shares: Floats,
    geometry: ImageGeometry,
    uvw_m: Floats,
    freq_hz: Floats,
    *,
    threads: int = 1,
) -> NDArray[np.complex128]:
    """Return the visibilities of images that each have a share in some channels.

    Parameters
    ----------
    planes: (plane, npixel, npixel), Jy/pixel.
    shares: (chan, plane); V(ν) = Σ share(ν) V_plane(ν).
    """
    vis = np.zeros((len(uvw_m), len(freq_hz)), dtype=np.complex128)
    for plane, share in zip(planes, shares.T, strict=True):
        chans = np.flatnonzero(share)
        if len(chans) and plane.any():
            part = predict_image(
                uvw_m, freq_hz[chans], plane, geometry, accuracy=ACCURACY, threads=threads
            )
            vis[:, chans] += part * share[chans]
    return vis
