"""Deconvolution: joint multi-scale, multi-frequency CLEAN by radler.

radler (the deconvolution of WSClean: Offringa & Smirnov 2017, MNRAS 471, 301) subtracts components
in the image plane until a threshold or the major-loop gain is reached; the caller then computes the
exact residual and calls again.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass

import numpy as np
import radler
from astropy.io import fits
from numpy.typing import NDArray
from scipy import fft, ndimage

# radler exchanges the buffer of std::cout while it works: two threads could leave it dangling.
_RADLER = threading.Lock()


EXTENDED_MARGIN = 1.1


@dataclass(frozen=True, slots=True)
class CleanSettings:
    """How one call of :func:`deconvolve` cleans.

    Attributes
    ----------
    scales_pixel: widths of the multi-scale kernels; empty: points only (Högbom/Clark).
    n_terms: polynomial terms along frequency that components follow; 0: each plane on its own flux.
    gain: minor-loop gain.
    major_gain: fraction of the peak removed before the call returns; near 1 can diverge.
    threshold_jy: absolute stopping level.
    max_iterations: minor iterations at most.
    """

    scales_pixel: tuple[int, ...]
    n_terms: int
    gain: float
    major_gain: float
    threshold_jy: float
    max_iterations: int


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What was added to the model, (plane, npixel, npixel), and the minor iterations it took."""

    components: NDArray[np.float32]
    iterations: int


def deconvolve(
    residual: NDArray[np.float32],
    psf: NDArray[np.float32],
    freq_range_hz: NDArray[np.float64],
    plane_weight: NDArray[np.float64],
    cell_rad: float,
    beam_size_rad: float,
    settings: CleanSettings,
    threads: int = 1,
    mask: NDArray[np.bool_] | None = None,
) -> CleanResult:
    """Clean the planes of a frequency cube together.

    Scales that would not find more than points do are left out of this call: a multi-scale loop
    costs several times one over points.

    Parameters
    ----------
    residual, psf: (plane, npixel, npixel), each psf with peak 1 at the centre.
    beam_size_rad: full width of the main lobe, by which radler ranks scales.
    freq_range_hz: (plane, 2) lower and upper edges.
    plane_weight: (plane,) relative weights, e.g. sums of visibility weights.
    mask: (npixel, npixel) true where components may be; None for everywhere.
    """
    n_planes, npixel, _ = residual.shape
    options = radler.Settings()
    options.trimmed_image_width = options.trimmed_image_height = npixel
    options.pixel_scale.x = options.pixel_scale.y = cell_rad
    scales = choose_scales(
        weighted_mean(residual, plane_weight),
        weighted_mean(psf, plane_weight),
        settings.scales_pixel,
    )
    if any(scales):
        options.algorithm_type = radler.AlgorithmType.multiscale
        options.multiscale.scale_list = [float(s) for s in scales]
    else:
        options.algorithm_type = radler.AlgorithmType.generic_clean
    options.minor_loop_gain = settings.gain
    options.major_loop_gain = settings.major_gain
    options.absolute_threshold = settings.threshold_jy
    options.minor_iteration_count = settings.max_iterations
    options.major_iteration_count = 2  # we count major cycles ourselves
    options.thread_count = threads
    options.parallel.max_threads = threads
    if n_planes > 1 and 0 < settings.n_terms <= n_planes:
        options.spectral_fitting.mode = radler.SpectralFittingMode.polynomial
        options.spectral_fitting.terms = settings.n_terms
    # radler works in place on views: hand it copies that outlive it
    work_residual = np.ascontiguousarray(residual, dtype=np.float32).copy()
    work_psf = np.ascontiguousarray(psf, dtype=np.float32)
    model = np.zeros_like(work_residual)
    with _RADLER:
        with (
            nullcontext("") if mask is None else _fits_file(mask) as options.fits_mask,
            open(os.devnull, "w") as sink,
            redirect_stdout(sink),
        ):
            if n_planes > 1:
                cleaner = radler.Radler(
                    options,
                    work_psf,
                    work_residual,
                    model,
                    beam_size_rad,
                    n_planes,
                    freq_range_hz,
                    np.asarray(plane_weight, dtype=float),
                )
            else:
                cleaner = radler.Radler(
                    options, work_psf[0], work_residual[0], model[0], beam_size_rad
                )
            cleaner.worker_thread_count = threads
            cleaner.perform(0)
            iterations = int(cleaner.iteration_number)
        with _native_output_hidden():
            del cleaner
    return CleanResult(model, iterations)


@contextmanager
def _fits_file(mask: NDArray[np.bool_]) -> Iterator[str]:
    """Yield the name of a mask on disk, where alone radler takes one."""
    with tempfile.NamedTemporaryFile(suffix=".fits") as file:
        fits.PrimaryHDU(mask.astype(np.float32)).writeto(file)
        file.flush()
        yield file.name


def weighted_mean(planes: NDArray[np.float32], weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the mean (npixel, npixel) of planes (plane, npixel, npixel)."""
    share = (weight / weight.sum()).astype(np.float32)
    return np.tensordot(share, planes, axes=1)


def choose_scales(
    residual: NDArray[np.float32], psf: NDArray[np.float32], scales_pixel: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the scales on which the residual holds more than points.

    Smoothing by a kernel of width s lowers the peak of a point source to that of the smoothed psf,
    and the peak of something as wide as the kernel hardly. A scale counts if the residual's peak
    falls clearly less than the psf's. Scale 0 is always kept.
    """
    peak = np.abs(residual).max()
    if peak == 0:
        return (0,)
    wave = np.stack([fft.rfft2(residual), fft.rfft2(psf)])
    chosen = [0]
    for scale in sorted(set(scales_pixel) - {0}):
        sigma = scale / 4  # as wide as radler's tapered quadratic of that full extent, nearly
        smooth = fft.irfft2(ndimage.fourier_gaussian(wave, (0, sigma, sigma), residual.shape[1]))
        if np.abs(smooth[0]).max() / peak > EXTENDED_MARGIN * smooth[1].max() / psf.max():
            chosen.append(scale)
    return tuple(chosen)


def centre_components(
    components: NDArray[np.float32], image: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Move each compact clump of components to where the image peaks between pixels.

    Self-calibration takes the positions of its first model as they are: a source modelled by the
    pixel nearest to it shifts the whole sky by the difference. The flux of a clump goes to the four
    pixels about the vertex of a parabola through its peak, in shares that have their centroid
    there. Clumps wider than three pixels, and those at the edge, stay.

    ``components`` is (plane, npixel, npixel), ``image`` (npixel, npixel).
    """
    centred = components.copy()
    clumps, _ = ndimage.label((components != 0).any(axis=0), structure=np.ones((3, 3)))
    for label, box in enumerate(ndimage.find_objects(clumps), start=1):
        inside = clumps[box] == label
        if max(inside.shape) > 3:
            continue
        peak = np.argmax(np.where(inside, np.abs(image[box]), 0))
        row, column = (
            int(offset) + part.start
            for offset, part in zip(np.unravel_index(peak, inside.shape), box, strict=True)
        )
        if not 2 <= min(row, column) <= max(row, column) < len(image) - 2:
            continue
        position = (
            row + _vertex(image[row - 1 : row + 2, column]),
            column + _vertex(image[row, column - 1 : column + 2]),
        )
        flux = np.where(inside, components[(slice(None), *box)], 0).sum(axis=(1, 2))
        centred[(slice(None), *box)][:, inside] = 0
        (r, c), (fraction_r, fraction_c) = np.floor(position).astype(int), np.mod(position, 1)
        shares = np.outer([1 - fraction_r, fraction_r], [1 - fraction_c, fraction_c])
        centred[:, r : r + 2, c : c + 2] += flux[:, np.newaxis, np.newaxis] * shares
    return centred


def _vertex(values: NDArray[np.float32]) -> float:
    """Return where the parabola through three neighbours peaks, counted from the middle one."""
    before, middle, after = map(float, values)
    curvature = before - 2 * middle + after
    return float(np.clip((before - after) / (2 * curvature), -0.5, 0.5)) if curvature else 0.0


@contextmanager
def _native_output_hidden() -> Iterator[None]:
    """Send what is written straight to file descriptor 1 nowhere.

    radler's progress text goes through sys.stdout, but not the summary that its end writes. All
    threads share the descriptor, so it is taken for that moment only.
    """
    saved = os.dup(1)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
