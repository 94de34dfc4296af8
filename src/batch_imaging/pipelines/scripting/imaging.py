"""Predict, invert, deconvolve, restore, weigh: lists of visibilities and images, one task each.

Every list may hold values, or what :data:`batch_imaging.execution.rsexecute` made of them. What
`invert` returns for an element is the image and its sum of weights (chan, pol).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.execution import rsexecute
from batch_imaging.kernels.deconvolution import CleanSettings, deconvolve, weighted_mean
from batch_imaging.kernels.gridding import make_dirty, predict_image
from batch_imaging.kernels.restoring import convolve_with_beam, fit_beam
from batch_imaging.kernels.weighting import Weighting, make_imaging_weight, sum_weight_density
from batch_imaging.model.beam import FWHM_PER_SIGMA, SPEED_OF_LIGHT_M_S, RestoringBeam
from batch_imaging.model.image import Image
from batch_imaging.model.visibility import Visibility, stokes_i
from batch_imaging.pipelines.scripting.facets import FacetLayout, Pixels, Taper
from batch_imaging.pipelines.scripting.keywords import (
    require_one_of,
    slices_of,
    workflow,
)

Floats = NDArray[np.float64]
DirtyImage = tuple[Image, Floats]

EPSILON = 1e-5
JOINT_ALGORITHMS = ("mmclean", "msmfsclean", "mfsmsclean")
ALGORITHMS = (*JOINT_ALGORITHMS, "msclean", "hogbom")


@workflow()
def predict_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    model_imagelist: Sequence[Image],
    context: str = "ng",
    vis_slices: int = 1,
    *,
    epsilon: float = EPSILON,
    threads: int = 1,
) -> list[Visibility]:
    """Predict what the array sees of each model; visibilities that were there are forgotten.

    Parameters
    ----------
    context: any that RASCIL has; all do the same, with the w term of every visibility.
    vis_slices: tasks, along time, for each element.
    epsilon: relative error; below 1e-5 in double precision.
    threads: of each task.
    """
    slices = slices_of(context, vis_slices)
    predict = rsexecute.execute(_predict)
    if slices == 1:
        return [
            predict(vis, model, epsilon, threads)
            for vis, model in zip(vis_list, model_imagelist, strict=True)
        ]
    return [
        rsexecute.execute(_join_rows)(
            vis, [predict(part, model, epsilon, threads) for part in _sliced(vis, slices)]
        )
        for vis, model in zip(vis_list, model_imagelist, strict=True)
    ]


@workflow()
def invert_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    template_model_imagelist: Sequence[Image],
    context: str = "ng",
    dopsf: bool = False,
    normalise: bool = True,
    vis_slices: int = 1,
    *,
    epsilon: float = EPSILON,
    threads: int = 1,
) -> list[DirtyImage]:
    """Make the dirty image, or the psf, of each element with the weights that it has.

    Each channel goes into the nearest plane of its template.

    Parameters
    ----------
    normalise: divide by the sum of weights.
    context, vis_slices, epsilon, threads: see :func:`predict_list_rsexecute_workflow`.
    """
    slices = slices_of(context, vis_slices)
    invert = rsexecute.execute(_invert, nout=2)
    results = []
    for vis, template in zip(vis_list, template_model_imagelist, strict=True):
        parts = _sliced(vis, slices) if slices > 1 else [vis]
        images = [invert(part, template, dopsf, epsilon, threads) for part in parts]
        total = images[0] if slices == 1 else rsexecute.execute(sum_invert_results, nout=2)(images)
        results.append(total if normalise else rsexecute.execute(_unnormalised, nout=2)(total))
    return results


@workflow()
def residual_list_rsexecute_workflow(
    vis: Sequence[Visibility],
    model_imagelist: Sequence[Image],
    context: str = "ng",
    vis_slices: int = 1,
    *,
    epsilon: float = EPSILON,
    threads: int = 1,
) -> list[DirtyImage]:
    """Make the dirty images of what the models leave of the visibilities."""
    predicted = predict_list_rsexecute_workflow(
        vis, model_imagelist, context, vis_slices, epsilon=epsilon, threads=threads
    )
    return invert_list_rsexecute_workflow(
        subtract_list_rsexecute_workflow(vis, predicted),
        model_imagelist,
        context,
        vis_slices=vis_slices,
        epsilon=epsilon,
        threads=threads,
    )


@workflow()
def subtract_list_rsexecute_workflow(
    vis_list: Sequence[Visibility], model_vislist: Sequence[Visibility]
) -> list[Visibility]:
    """Subtract visibilities from those of the same rows."""
    subtract = rsexecute.execute(_subtract)
    return [subtract(vis, model) for vis, model in zip(vis_list, model_vislist, strict=True)]


@workflow()
def zero_list_rsexecute_workflow(vis_list: Sequence[Visibility]) -> list[Visibility]:
    """Set visibilities to zero."""
    return [rsexecute.execute(_zero)(vis) for vis in vis_list]


@workflow()
def deconvolve_list_rsexecute_workflow(
    dirty_list: Sequence[DirtyImage],
    psf_list: Sequence[DirtyImage],
    model_imagelist: Sequence[Image],
    prefix: str = "",
    *,
    algorithm: str = "msclean",
    niter: int = 1000,
    gain: float = 0.1,
    threshold: float = 0.0,
    fractional_threshold: float = 0.1,
    scales: Sequence[int] = (0, 3, 10),
    nmoment: int = 1,
    deconvolve_facets: int = 1,
    deconvolve_overlap: int = 0,
    deconvolve_taper: Taper | None = None,
) -> list[Image]:
    """Clean dirty images and return the models with what was found added.

    One task a facet holds the planes of that facet alone, so no worker ever holds all of a cube.

    Parameters
    ----------
    prefix: what an error calls the images.
    algorithm: "mmclean" (or "msmfsclean"): all planes of all images together, with fluxes that
        are polynomials in frequency; "msclean": each plane by itself; "hogbom": the same, points.
    niter: minor iterations at most, in each facet.
    gain: of the minor loop.
    threshold: Jy/beam, and fractional_threshold: of the highest peak of all facets; cleaning ends
        at the higher of the two.
    scales: pixels.
    nmoment: terms of the polynomials; 0: "mmclean" leaves each plane its own flux.
    deconvolve_facets: facets a side; deconvolve_overlap: pixels beyond a facet on each side;
    deconvolve_taper: "tukey", "linear" or "quadratic" shares of neighbours there, or None.

    Raises
    ------
    ParameterError: a value that is not known.
    DataError: a psf without a beam, or values that are not finite.
    """
    require_one_of("algorithm", algorithm, ALGORITHMS)
    if not 0 <= fractional_threshold < 1:
        raise ParameterError(f"fractional_threshold = {fractional_threshold}: from 0 to below 1")
    if not 0 < gain <= 1:
        raise ParameterError(f"gain = {gain}: above 0, at most 1")
    layout = FacetLayout(deconvolve_facets, deconvolve_overlap, deconvolve_taper)
    n_facets = deconvolve_facets**2
    joint = algorithm in JOINT_ALGORITHMS
    settings = CleanSettings(
        scales_pixel=() if algorithm == "hogbom" else tuple(scales),
        n_terms=nmoment if joint else 0,
        gain=gain,
        major_gain=1 - fractional_threshold,
        threshold_jy=threshold,
        max_iterations=niter,
    )
    axes = [rsexecute.execute(_plane_axis)(dirty) for dirty in dirty_list]
    psfs = [rsexecute.execute(_facet_psf)(psf, layout) for psf in psf_list]
    cut = [rsexecute.execute(_cut, nout=n_facets)(dirty, layout) for dirty in dirty_list]
    by_facet = [[parts[facet] for parts in cut] for facet in range(n_facets)]
    peaks = [rsexecute.execute(_peak)(parts, axes, joint) for parts in by_facet]
    cleaned = [
        rsexecute.execute(_clean_facet, nout=len(cut))(
            parts, psfs, axes, peaks, joint, settings, f"{prefix or 'deconvolution'}, facet {facet}"
        )
        for facet, parts in enumerate(by_facet)
    ]
    return [
        rsexecute.execute(_add_components)(model, [facet[k] for facet in cleaned], layout)
        for k, model in enumerate(model_imagelist)
    ]


@workflow()
def restore_list_rsexecute_workflow(
    model_imagelist: Sequence[Image],
    psf_imagelist: Sequence[DirtyImage],
    residual_imagelist: Sequence[DirtyImage] | None = None,
    restore_facets: int = 1,
    *,
    clean_beam: RestoringBeam | None = None,
    psfwidth: float | None = None,
) -> list[Image]:
    """Convolve models with the Gaussians that fit their psfs, and add the residuals; Jy/beam.

    Parameters
    ----------
    restore_facets: facets a side that are convolved each by itself, the result is the same.
    clean_beam: instead of that of the psf; psfwidth: a round one, standard deviation in pixels.

    Raises
    ------
    DataError: no beam fits the psf.
    """
    layout = FacetLayout(restore_facets)
    residuals: Sequence[DirtyImage | None] = residual_imagelist or [None] * len(model_imagelist)
    restored = []
    for model, psf, residual in zip(model_imagelist, psf_imagelist, residuals, strict=True):
        beams = rsexecute.execute(_beams)(psf, clean_beam, psfwidth)
        pieces = rsexecute.execute(_cut, nout=restore_facets**2)(model, layout)
        convolved = [rsexecute.execute(_convolve)(piece, beams, model) for piece in pieces]
        restored.append(rsexecute.execute(_restore)(model, convolved, beams, residual, layout))
    return restored


@workflow()
def weight_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    model_imagelist: Sequence[Image],
    weighting: Weighting = "uniform",
    robustness: float = 0.0,
) -> list[Visibility]:
    """Turn weights into imaging weights, by the uv density of all elements together.

    Calibrate before: the weights 1/σ² are gone afterwards.
    """
    require_one_of("weighting", weighting, ("natural", "uniform", "robust"))
    if weighting == "natural":
        return list(vis_list)
    densities = [
        rsexecute.execute(_density)(vis, model)
        for vis, model in zip(vis_list, model_imagelist, strict=True)
    ]
    density = rsexecute.execute(sum)(densities)
    weigh = rsexecute.execute(_weigh)
    return [
        weigh(vis, model, weighting, robustness, density)
        for vis, model in zip(vis_list, model_imagelist, strict=True)
    ]


@workflow()
def taper_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    size_required: float,
    taper: Literal["gaussian", "inverse"] = "gaussian",
) -> list[Visibility]:
    """Multiply weights by a function of the baseline's length.

    Parameters
    ----------
    size_required: radians.
    taper: "gaussian": the transform of a Gaussian of that full width at half maximum, which the
        beam then cannot be smaller than. "inverse": 1 less that, so that what is larger is damped.
    """
    require_one_of("taper", taper, ("gaussian", "inverse"))
    return [rsexecute.execute(_taper)(vis, size_required, taper) for vis in vis_list]


@workflow()
def coalesce_list_rsexecute_workflow(
    vis_list: Sequence[Visibility], max_time_coal: int = 1, max_frequency_coal: int = 1
) -> list[Visibility]:
    """Average so many integrations and channels into one, by their weights."""
    if min(max_time_coal, max_frequency_coal) < 1:
        raise ParameterError("max_time_coal and max_frequency_coal: at least 1, for no averaging")
    average = rsexecute.execute(_average)
    return [average(vis, max_time_coal, max_frequency_coal) for vis in vis_list]


def sum_invert_results(image_list: Sequence[DirtyImage]) -> DirtyImage:
    """Return the mean of normalised images by their weights, and the sum of these."""
    sumwt = np.sum([weight for _, weight in image_list], axis=0)
    total = sum(image.data * _per_plane(weight) for image, weight in image_list)
    data = np.divide(
        total, _per_plane(sumwt), where=_per_plane(sumwt) > 0, out=np.zeros_like(total)
    )
    return image_list[0][0].with_data(data.astype(image_list[0][0].data.dtype)), sumwt


def _per_plane(sumwt: Floats) -> Floats:
    return sumwt[:, :, np.newaxis, np.newaxis]


def _unnormalised(dirty: DirtyImage) -> DirtyImage:
    image, sumwt = dirty
    return image.with_data(image.data * _per_plane(sumwt)), sumwt


def _channels_of_planes(vis: Visibility, image: Image) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each plane of an image and the channels that are nearest to it, if there are any."""
    if image.geometry.phase_centre != vis.phase_centre:
        raise DataError(
            f"an image about {image.geometry.phase_centre} does not go with visibilities about "
            f"{vis.phase_centre}; make it with create_image_from_visibility"
        )
    distance_hz = np.abs(vis.freq_hz[:, np.newaxis] - image.freq_hz)
    nearest = distance_hz.argmin(axis=1)
    for plane in range(len(image.freq_hz)):
        chans = np.flatnonzero(nearest == plane)
        if len(chans):
            yield plane, chans


def _predict(vis: Visibility, model: Image, epsilon: float, threads: int) -> Visibility:
    total = np.zeros(vis.vis.shape, dtype=np.complex64)
    for plane, chans in _channels_of_planes(vis, model):
        pixels = model.data[plane, 0]
        if pixels.any():
            total[:, chans] = predict_image(
                vis.uvw_m,
                vis.freq_hz[chans],
                pixels,
                model.geometry,
                accuracy=epsilon,
                threads=threads,
            )[..., np.newaxis]
    return vis.with_vis(total)


def _invert(
    vis: Visibility, template: Image, dopsf: bool, epsilon: float, threads: int
) -> DirtyImage:
    values, weight = stokes_i(vis)
    if dopsf:
        values = np.ones_like(values)
    data = np.zeros((len(template.freq_hz), 1, *template.geometry.shape), dtype=np.float32)
    sumwt = np.zeros(data.shape[:2])
    for plane, chans in _channels_of_planes(vis, template):
        sumwt[plane] = weight[:, chans].sum(dtype=float)
        if sumwt[plane] > 0:
            pixels = make_dirty(
                vis.uvw_m,
                vis.freq_hz[chans],
                values[:, chans],
                weight[:, chans],
                template.geometry,
                accuracy=epsilon,
                threads=threads,
            )
            data[plane] = pixels / sumwt[plane]
    return template.with_data(data), sumwt


def _sliced(vis: Visibility, slices: int) -> list[Visibility]:
    return list(rsexecute.execute(_cut_rows, nout=slices)(vis, slices))


def _cut_rows(vis: Visibility, slices: int) -> list[Visibility]:
    edges = np.linspace(0, vis.n_rows, slices + 1).astype(int)
    return [_select_rows(vis, slice(a, b)) for a, b in pairwise(edges)]


def _select_rows(vis: Visibility, rows: slice) -> Visibility:
    return replace(
        vis,
        uvw_m=vis.uvw_m[rows],
        time_mjd_s=vis.time_mjd_s[rows],
        antenna1=vis.antenna1[rows],
        antenna2=vis.antenna2[rows],
        vis=vis.vis[rows],
        weight=vis.weight[rows],
    )


def _join_rows(vis: Visibility, parts: Sequence[Visibility]) -> Visibility:
    return vis.with_vis(np.concatenate([part.vis for part in parts]))


def _subtract(vis: Visibility, model: Visibility) -> Visibility:
    return vis.with_vis(vis.vis - model.vis)


def _zero(vis: Visibility) -> Visibility:
    return vis.with_vis(np.zeros_like(vis.vis))


@dataclass(frozen=True, slots=True)
class _PlaneAxis:
    """The planes of one image: (plane, 2) edges in Hz, (plane,) weights, and the pixels' size."""

    freq_range_hz: Floats
    weight: Floats
    cell_rad: float


def _plane_axis(dirty: DirtyImage) -> _PlaneAxis:
    image, sumwt = dirty
    half_hz = image.chan_width_hz / 2
    edges_hz = np.stack([image.freq_hz - half_hz, image.freq_hz + half_hz], axis=1)
    return _PlaneAxis(edges_hz, sumwt[:, 0], image.geometry.cell_rad)


def _cut(image: Image | DirtyImage, layout: FacetLayout) -> list[Pixels]:
    if isinstance(image, tuple):
        image, _ = image
    return layout.cut(image.data[:, 0])


def _facet_psf(psf: DirtyImage, layout: FacetLayout) -> Pixels:
    """Return the middle of a psf, as large as a facet."""
    planes = psf[0].data[:, 0]
    npixel = planes.shape[-1]
    size = layout.side(npixel) + 2 * layout.margin
    margin = max(0, size - npixel + 1) // 2
    padded = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)))
    first = padded.shape[-1] // 2 - size // 2
    return np.ascontiguousarray(padded[:, first : first + size, first : first + size])


def _peak(parts: Sequence[Pixels], axes: Sequence[_PlaneAxis], joint: bool) -> float:
    planes, weight = np.concatenate(parts), _all_weights(axes)
    looked_at = weighted_mean(planes, weight) if joint and weight.any() else planes
    return float(np.abs(looked_at).max())


def _all_weights(axes: Sequence[_PlaneAxis]) -> Floats:
    return np.concatenate([axis.weight for axis in axes])


def _clean_facet(
    parts: Sequence[Pixels],
    psfs: Sequence[Pixels],
    axes: Sequence[_PlaneAxis],
    peaks: Sequence[float],
    joint: bool,
    settings: CleanSettings,
    what: str,
) -> list[Pixels]:
    """Return the components of one facet, for each image (plane, row, column)."""
    residual, psf, weight = np.concatenate(parts), np.concatenate(psfs), _all_weights(axes)
    components = np.zeros_like(residual)
    level_jy = max(settings.threshold_jy, (1 - settings.major_gain) * max(peaks))
    settings = replace(settings, threshold_jy=level_jy)
    good = np.flatnonzero(weight > 0)
    freq_range_hz = np.concatenate([axis.freq_range_hz for axis in axes])
    for planes in [good] if joint and len(good) else good[:, np.newaxis]:
        mean_psf = weighted_mean(psf[planes], weight[planes])
        if np.abs(weighted_mean(residual[planes], weight[planes])).max() > level_jy:
            components[planes] = deconvolve(
                residual[planes],
                psf[planes],
                freq_range_hz[planes],
                weight[planes],
                axes[0].cell_rad,
                _fitted_beam(mean_psf, axes[0].cell_rad).bmaj_rad,
                replace(settings, n_terms=min(settings.n_terms, len(planes))),
            ).components
    if not np.isfinite(components).all():
        raise DataError(f"{what}: values that are not finite; try a lower gain or nmoment=1")
    ends = np.cumsum([len(axis.weight) for axis in axes])
    return np.split(components, ends[:-1])


def _add_components(model: Image, facets: Sequence[Pixels], layout: FacetLayout) -> Image:
    found = layout.join(facets, model.geometry.npixel)
    return model.with_data(model.data + found[:, np.newaxis])


def _fitted_beam(psf: Pixels, cell_rad: float) -> RestoringBeam:
    try:
        return fit_beam(psf, cell_rad)
    except ValueError as error:
        raise DataError(
            f"{error}; is a pixel, {cell_rad:g} rad, a fraction of the beam?"
        ) from error


def _beams(
    psf: DirtyImage, clean_beam: RestoringBeam | None, psfwidth: float | None
) -> tuple[RestoringBeam, ...]:
    image, sumwt = psf
    cell_rad = image.geometry.cell_rad
    if psfwidth is not None:
        width_rad = psfwidth * cell_rad * FWHM_PER_SIGMA
        clean_beam = RestoringBeam(width_rad, width_rad, 0.0)
    if clean_beam is not None:
        return (clean_beam,) * len(sumwt)
    return tuple(_fitted_beam(plane, cell_rad) for plane in image.data[:, 0])


def _convolve(piece: Pixels, beams: Sequence[RestoringBeam], model: Image) -> Pixels:
    """Convolve the planes of a facet, which grow by what the widest beam reaches."""
    cell_rad = model.geometry.cell_rad
    margin = int(np.ceil(3 * max(beam.bmaj_rad for beam in beams) / cell_rad))
    padded = np.pad(piece, ((0, 0), (margin, margin), (margin, margin)))
    return np.stack(
        [
            convolve_with_beam(plane, beam, cell_rad)
            for plane, beam in zip(padded, beams, strict=True)
        ]
    )


def _restore(
    model: Image,
    convolved: Sequence[Pixels],
    beams: tuple[RestoringBeam, ...],
    residual: DirtyImage | None,
    layout: FacetLayout,
) -> Image:
    data = layout.add_up(convolved, model.geometry.npixel)[:, np.newaxis]
    if residual is not None:
        data = data + residual[0].data
    return replace(model, data=data, beams=beams)


def _density(vis: Visibility, model: Image) -> Floats:
    _, weight = stokes_i(vis)
    return sum_weight_density(vis.uvw_m, vis.freq_hz, weight, model.geometry)


def _weigh(
    vis: Visibility, model: Image, weighting: Weighting, robust: float, density: Floats
) -> Visibility:
    _, weight = stokes_i(vis)
    imaging = make_imaging_weight(
        vis.uvw_m, vis.freq_hz, weight, model.geometry, weighting, robust, density
    )
    share = np.divide(imaging, weight, out=np.zeros_like(weight), where=weight > 0)
    return replace(vis, weight=vis.weight * share[..., np.newaxis])


def _taper(vis: Visibility, size_rad: float, taper: str) -> Visibility:
    length_m = np.hypot(vis.uvw_m[:, 0], vis.uvw_m[:, 1])
    wavelengths = length_m[:, np.newaxis] * vis.freq_hz / SPEED_OF_LIGHT_M_S
    factor = np.exp(-2 * (np.pi * size_rad / FWHM_PER_SIGMA * wavelengths) ** 2)
    if taper == "inverse":
        factor = 1 - factor
    return replace(vis, weight=vis.weight * factor[..., np.newaxis].astype(np.float32))


def _average(vis: Visibility, n_times: int, n_chan: int) -> Visibility:
    """Average integrations row by row of each baseline, then channels."""
    _, instant = np.unique(vis.time_mjd_s, return_inverse=True)
    keys = np.stack([instant // n_times, vis.antenna1, vis.antenna2], axis=1)
    unique, first, target = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    rows_of = np.bincount(target.ravel())
    starts = np.arange(0, len(vis.freq_hz), n_chan)

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        total = np.zeros((len(unique), *values.shape[1:]), dtype=values.dtype)
        np.add.at(total, target.ravel(), values)
        return total

    def mean_of_rows(values: Floats) -> Floats:
        counts = rows_of.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(summed(values) / counts)

    weight = np.add.reduceat(summed(vis.weight), starts, axis=1)
    weighted = np.add.reduceat(summed(vis.vis * vis.weight), starts, axis=1)
    counts = np.diff([*starts, len(vis.freq_hz)])
    time_mjd_s = np.zeros(len(np.unique(unique[:, 0])))
    np.add.at(time_mjd_s, unique[:, 0], mean_of_rows(vis.time_mjd_s))
    time_mjd_s /= np.bincount(unique[:, 0])
    return replace(
        vis,
        uvw_m=mean_of_rows(vis.uvw_m),
        time_mjd_s=time_mjd_s[unique[:, 0]],
        antenna1=vis.antenna1[first],
        antenna2=vis.antenna2[first],
        vis=np.divide(weighted, weight, out=np.zeros_like(weighted), where=weight > 0),
        weight=weight,
        freq_hz=np.add.reduceat(vis.freq_hz, starts) / counts,
        chan_width_hz=np.add.reduceat(vis.chan_width_hz, starts),
        integration_s=vis.integration_s * n_times,
    )
