"""Steps on one unit of data that all imaging shares: predict a model, invert to an image, weigh."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.kernels.components import predict_points
from batch_imaging.kernels.gridding import (
    SINGLE_PRECISION_LIMIT,
    make_dirty,
    predict_image,
)
from batch_imaging.kernels.restoring import fit_beam
from batch_imaging.kernels.weighting import Weighting, make_imaging_weight, sum_weight_density
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.visibility import Visibility, stokes_i
from batch_imaging.pipelines.units import LoadedUnit, Unit, load_unit

# Measured rates of one core that decide how a model is predicted; see benchmarks/kernels.py.
_POINTS_PER_S = 5e9  # visibilities × components, single precision
_DEGRID_PER_S = 4e6  # visibilities
_DEGRID_PLANE_S = 0.25  # Fourier transforms of a 1024² image with its w planes


DRAFT_ACCURACY = 1e-2
PSF_PATCH_NPIXEL = 256  # the middle of a psf: enough to fit a beam and to clean faint residuals


@dataclass(frozen=True, slots=True)
class ImagingSetup:
    """How data become images, the same for all units of a run.

    Attributes
    ----------
    density: summed uv weights for uniform and robust weighting, None for natural.
    weight_geometry: the image whose uv cells the density counts; by default ``geometry``.
    threads: for native libraries within a unit.
    """

    geometry: ImageGeometry
    accuracy: float
    weighting: Weighting
    robust: float
    threads: int
    density: NDArray[np.float64] | None = None
    weight_geometry: ImageGeometry | None = None

    def draft(self) -> "ImagingSetup":
        """Return a cheaper setup for images that only steer deconvolution.

        Their errors, a fraction of a residual, are gone with the next exact residual.
        """
        return replace(self, accuracy=max(self.accuracy, DRAFT_ACCURACY))

    def patch(self, npixel: int) -> "ImagingSetup":
        """Return a setup for the middle of the image only, at most ``npixel`` a side."""
        npixel = min(npixel, self.geometry.npixel)
        return replace(
            self,
            geometry=replace(self.geometry, npixel=npixel),
            weight_geometry=self.weight_geometry or self.geometry,
        )

    @property
    def double(self) -> bool:
        return self.accuracy < SINGLE_PRECISION_LIMIT


@dataclass(frozen=True, slots=True)
class WeightedImage:
    """A sum over visibilities, not yet divided by its weight.

    Attributes
    ----------
    pixels: (npixel, npixel), Σ w V exp(…).
    weight: Σ w.
    """

    pixels: NDArray[np.floating]
    weight: float

    def __add__(self, other: "WeightedImage") -> "WeightedImage":
        return WeightedImage(self.pixels + other.pixels, self.weight + other.weight)

    def normalised(self) -> NDArray[np.float32]:
        """Return the weighted mean, Jy/beam; zero where there are no data."""
        return np.asarray(self.pixels / (self.weight or 1.0), dtype=np.float32)


def embed(patch: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return ``patch`` in the middle of a plane of zeros."""
    plane = np.zeros(shape, dtype=np.float32)
    first = shape[0] // 2 - patch.shape[0] // 2
    plane[first : first + patch.shape[0], first : first + patch.shape[1]] = patch
    return plane


def measure_density(unit: Unit, setup: ImagingSetup) -> NDArray[np.float64]:
    """Return the uv density of one unit's weights (a unit of work)."""
    block = load_unit(unit).block
    _, weight = stokes_i(block)
    return sum_weight_density(block.uvw_m, block.freq_hz, weight, setup.geometry)


def invert(
    block: Visibility,
    vis: NDArray[np.complexfloating],
    weight: NDArray[np.float32],
    setup: ImagingSetup,
) -> WeightedImage:
    """Grid Stokes I visibilities (row, chan) with the imaging weights of the run."""
    imaging_weight = make_imaging_weight(
        block.uvw_m,
        block.freq_hz,
        weight,
        setup.weight_geometry or setup.geometry,
        setup.weighting,
        setup.robust,
        setup.density,
    )
    total = float(imaging_weight.sum(dtype=float))
    if total == 0:
        return WeightedImage(np.zeros(setup.geometry.shape, dtype=np.float32), 0.0)
    pixels = make_dirty(
        block.uvw_m,
        block.freq_hz,
        vis,
        imaging_weight,
        setup.geometry,
        accuracy=setup.accuracy,
        threads=setup.threads,
    )
    return WeightedImage(pixels, total)


def beam_of_psf(psf: NDArray[np.float32], setup: ImagingSetup, data: str) -> RestoringBeam:
    """Fit the restoring beam; ``data`` says whose psf it is, for the DataError if none fits."""
    try:
        return fit_beam(psf, setup.geometry.cell_rad)
    except ValueError as error:
        raise DataError(
            f"{data}: {error}; are there enough baselines, and is imaging.cellsize = "
            f"{setup.geometry.cell_rad:g} rad a fraction of the beam?"
        ) from error


def predict_model(
    loaded: LoadedUnit, model: ContinuumModel, setup: ImagingSetup
) -> NDArray[np.complexfloating]:
    """Return the model's visibilities at the block's own channels, (row, chan).

    A sparse model is summed pixel by pixel, which is exact; a dense one is degridded, one image
    per spectral term. Whichever costs less is taken.
    """
    block = loaded.block
    samples, n_terms = block.n_rows * len(block.freq_hz), model.terms_jy.shape[1]
    plane_s = _DEGRID_PLANE_S * (setup.geometry.npixel / 1024) ** 2
    degrid_s = n_terms * (plane_s + samples / _DEGRID_PER_S)
    if len(model) == 0:
        return np.zeros((block.n_rows, len(block.freq_hz)), dtype=np.complex64)
    if loaded.factors is not None and samples * len(model) / _POINTS_PER_S < degrid_s:
        return predict_points(
            loaded.factors,
            block.freq_hz,
            model.lmn(),
            model.flux_jy(block.freq_hz),
            double=setup.double,
        )
    offset = block.freq_hz / model.ref_freq_hz - 1
    parts = (
        predict_image(
            block.uvw_m,
            block.freq_hz,
            plane,
            setup.geometry,
            accuracy=setup.accuracy,
            threads=setup.threads,
        )
        * (offset**power).astype(plane.dtype)
        for power, plane in enumerate(model.term_planes())
    )
    total: NDArray[np.complexfloating] = next(parts)
    for part in parts:
        total += part
    return total
