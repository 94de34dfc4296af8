"""The pipelines: continuum, self-calibrated and spectral-line imaging, and sky-model calibration.

The graph of a pipeline is made before anything is known of its data, so it has the number of major
cycles that was asked for. A cycle that finds nothing above the threshold adds nothing to the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from batch_imaging.errors import ParameterError
from batch_imaging.execution import rsexecute
from batch_imaging.model.gains import GainTable
from batch_imaging.model.image import Image
from batch_imaging.model.sky import SkyModel
from batch_imaging.model.visibility import Visibility
from batch_imaging.parameters import CONTEXT_DELAY
from batch_imaging.pipelines.scripting.calibration import (
    Controls,
    GainTables,
    apply_gaintable,
    calibrate_list_rsexecute_workflow,
    first_selfcal,
)
from batch_imaging.pipelines.scripting.imaging import (
    DirtyImage,
    deconvolve_list_rsexecute_workflow,
    invert_list_rsexecute_workflow,
    predict_list_rsexecute_workflow,
    restore_list_rsexecute_workflow,
    subtract_list_rsexecute_workflow,
)
from batch_imaging.pipelines.scripting.keywords import meant_for, workflow
from batch_imaging.pipelines.scripting.simulation import predict_skycomponent_visibility

Images = list[Image]

FIRST_SELFCAL = 1
"""The first major cycle that has a model to calibrate with."""

_IMAGING = (
    predict_list_rsexecute_workflow,
    invert_list_rsexecute_workflow,
    deconvolve_list_rsexecute_workflow,
    restore_list_rsexecute_workflow,
)


@workflow(*_IMAGING)
def continuum_imaging_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    model_imagelist: Sequence[Image],
    context: str = "ng",
    nmajor: int = 5,
    **parameters: Any,
) -> tuple[Images, list[DirtyImage], Images]:
    """Image and deconvolve in ``nmajor`` major cycles, each beginning with the exact residual.

    Parameters
    ----------
    model_imagelist: what the models start from, mostly empty images.
    parameters: those of predict, invert, deconvolve (``algorithm`` is "mmclean") and restore.

    Returns
    -------
    Models in Jy/pixel; residuals, with their sums of weights; restored images in Jy/beam.
    """
    deconvolved, residual, restored, _ = ical_list_rsexecute_workflow(
        vis_list, model_imagelist, context, nmajor, do_selfcal=False, **parameters
    )
    return deconvolved, residual, restored


@workflow(*_IMAGING)
def ical_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    model_imagelist: Sequence[Image],
    context: str = "ng",
    nmajor: int = 5,
    calibration_context: str = "TG",
    do_selfcal: bool = True,
    *,
    controls: Controls | None = None,
    global_solution: bool = True,
    **parameters: Any,
) -> tuple[Images, list[DirtyImage], Images, list[GainTables]]:
    """Image, deconvolve and self-calibrate in turn.

    A cycle solves for gains against the model so far, if that is not empty, makes the residuals
    and deconvolves them. After the last, gains and residuals are made once more.

    Parameters
    ----------
    controls: when each letter of ``calibration_context`` is solved first; by default T in the
        major cycle after the first, G two and B three cycles later.
    parameters: those of predict, invert, deconvolve (``algorithm`` is "mmclean") and restore.

    Returns
    -------
    As continuum imaging, and the last gain tables; see :func:`calibrate_list_rsexecute_workflow`.
    """
    if nmajor < 1:
        raise ParameterError(f"nmajor = {nmajor}: at least one major cycle")
    parameters.setdefault("algorithm", "mmclean")
    predicting = meant_for(predict_list_rsexecute_workflow, parameters)
    inverting = meant_for(invert_list_rsexecute_workflow, parameters)
    cleaning = meant_for(deconvolve_list_rsexecute_workflow, parameters)
    restoring = meant_for(restore_list_rsexecute_workflow, parameters)
    begins = {letter: FIRST_SELFCAL + delay for letter, delay in CONTEXT_DELAY.items()}
    begins = first_selfcal(calibration_context, controls, begins)

    models, tables = list(model_imagelist), list[GainTables]()
    psfs = invert_list_rsexecute_workflow(vis_list, models, context, dopsf=True, **inverting)
    for cycle in range(nmajor + 1):
        predicted = predict_list_rsexecute_workflow(vis_list, models, context, **predicting)
        calibrated = list(vis_list)
        letters = "".join(x for x, begin in begins.items() if begin <= cycle)
        if do_selfcal and letters:
            calibrated, tables = calibrate_list_rsexecute_workflow(
                vis_list, predicted, letters, global_solution
            )
        left = subtract_list_rsexecute_workflow(calibrated, predicted)
        residuals = invert_list_rsexecute_workflow(left, models, context, **inverting)
        if cycle < nmajor:
            models = deconvolve_list_rsexecute_workflow(
                residuals, psfs, models, f"cycle {cycle}", **cleaning
            )
    restored = restore_list_rsexecute_workflow(models, psfs, residuals, **restoring)
    return models, residuals, restored, tables


@workflow(continuum_imaging_list_rsexecute_workflow)
def spectral_line_imaging_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    model_imagelist: Sequence[Image],
    context: str = "ng",
    continuum_model_imagelist: Sequence[Image] | None = None,
    **parameters: Any,
) -> tuple[Images, list[DirtyImage], Images]:
    """Subtract a continuum model, if there is one, and image what is left plane by plane.

    ``parameters`` are those of continuum imaging, but ``algorithm`` is "msclean". Returns what
    continuum imaging does.
    """
    if continuum_model_imagelist is not None:
        predicting = meant_for(predict_list_rsexecute_workflow, parameters)
        continuum = predict_list_rsexecute_workflow(
            vis_list, continuum_model_imagelist, context, **predicting
        )
        vis_list = subtract_list_rsexecute_workflow(vis_list, continuum)
    parameters.setdefault("algorithm", "msclean")
    return continuum_imaging_list_rsexecute_workflow(
        vis_list, model_imagelist, context, **parameters
    )


@dataclass(frozen=True, slots=True)
class SkyPartition:
    """A part of the sky that is seen through gains of its own.

    Attributes
    ----------
    components: their fluxes stay as they are.
    image: what is found beside them; None: nothing is looked for.
    mask: image of the share, 0 to 1, that this part has in what is found; None: an equal one.
    gaintable: None: gains of 1.
    """

    components: SkyModel = field(default_factory=lambda: SkyModel(()))
    image: Image | None = None
    mask: Image | None = None
    gaintable: GainTable | None = None


@workflow(*_IMAGING)
def mpccal_skymodel_list_rsexecute_workflow(
    visobs: Visibility,
    model: Image,
    theta_list: Sequence[SkyPartition],
    nmajor: int = 10,
    context: str = "ng",
    mpccal_progress: Callable[[Image, Sequence[SkyPartition], int], object] | None = None,
    **parameters: Any,
) -> tuple[list[SkyPartition], Image]:
    """Calibrate each part of the sky by itself: model-partition calibration.

    Expectation and maximisation in turn, as in SAGECal (Yatawatta et al. 2009; Kazemi et al. 2011,
    MNRAS 414, 1656): a part's data are its prediction and what all parts together leave. Against
    them its phases are solved for each integration, and with them it is imaged; the sum of these
    images by masks is deconvolved.

    Parameters
    ----------
    visobs: one block, not a list. model: the image that residuals are made on.
    mpccal_progress: called with residual, parts and cycle after each cycle.
    parameters: those of predict, invert and deconvolve.

    Returns
    -------
    The parts with their gain tables and images; the image of what they leave.
    """
    predicting = meant_for(predict_list_rsexecute_workflow, parameters)
    inverting = meant_for(invert_list_rsexecute_workflow, parameters)
    cleaning = meant_for(deconvolve_list_rsexecute_workflow, parameters)
    (psf,) = invert_list_rsexecute_workflow([visobs], [model], context, dopsf=True, **inverting)
    parts, residual = list(theta_list), model
    for cycle in range(nmajor):
        clean = [_predict_partition(visobs, p, model, context, predicting) for p in parts]
        seen = [rsexecute.execute(_through_gains)(c, p) for c, p in zip(clean, parts, strict=True)]
        own = rsexecute.execute(_own_data, nout=len(parts))(visobs, seen)
        own = [own[k] for k in range(len(parts))]
        _, tables = calibrate_list_rsexecute_workflow(own, clean, "T", global_solution=False)
        parts = [rsexecute.execute(_with_gains)(p, t) for p, t in zip(parts, tables, strict=True)]
        calibrated = [rsexecute.execute(_calibrated)(v, p) for v, p in zip(own, parts, strict=True)]
        left = subtract_list_rsexecute_workflow(calibrated, clean)
        dirty = invert_list_rsexecute_workflow(left, [model] * len(parts), context, **inverting)
        total = rsexecute.execute(_sum_by_masks, nout=2)(dirty, parts)
        residual = total[0]
        (found,) = deconvolve_list_rsexecute_workflow(
            [total], [psf], [model], f"cycle {cycle}", **cleaning
        )
        add = rsexecute.execute(_with_found)
        parts = [add(p, found, model, len(parts)) for p in parts]
        if mpccal_progress is not None:
            residual = rsexecute.execute(_told)(mpccal_progress, residual, parts, cycle)
    return parts, residual


def _predict_partition(
    visobs: Visibility,
    part: SkyPartition,
    model: Image,
    context: str,
    parameters: dict[str, Any],
) -> Visibility:
    points = rsexecute.execute(_predict_components)(visobs, part)
    image = rsexecute.execute(_image_of)(part, model)
    (extended,) = predict_list_rsexecute_workflow([visobs], [image], context, **parameters)
    return rsexecute.execute(_added)(points, extended)  # type: ignore[no-any-return]


def _predict_components(visobs: Visibility, part: SkyPartition) -> Visibility:
    return predict_skycomponent_visibility(visobs, part.components)


def _image_of(part: SkyPartition, model: Image) -> Image:
    return part.image or model.with_data(np.zeros_like(model.data))


def _added(first: Visibility, second: Visibility) -> Visibility:
    return first.with_vis(first.vis + second.vis)


def _through_gains(vis: Visibility, part: SkyPartition) -> Visibility:
    return vis if part.gaintable is None else apply_gaintable(vis, part.gaintable)


def _calibrated(vis: Visibility, part: SkyPartition) -> Visibility:
    return vis if part.gaintable is None else apply_gaintable(vis, part.gaintable, inverse=True)


def _own_data(visobs: Visibility, seen: Sequence[Visibility]) -> list[Visibility]:
    left = visobs.vis - np.sum([part.vis for part in seen], axis=0)
    return [visobs.with_vis(left + part.vis) for part in seen]


def _with_gains(part: SkyPartition, tables: GainTables) -> SkyPartition:
    return replace(part, gaintable=tables["T"])


def _share(part: SkyPartition, n_parts: int) -> Any:
    return 1 / n_parts if part.mask is None else part.mask.data


def _sum_by_masks(dirty: Sequence[DirtyImage], parts: Sequence[SkyPartition]) -> DirtyImage:
    shares = [_share(part, len(parts)) for part in parts]
    images = [image.data * share for (image, _), share in zip(dirty, shares, strict=True)]
    first, sumwt = dirty[0]
    return first.with_data(np.sum(images, axis=0, dtype=np.float32)), sumwt


def _with_found(part: SkyPartition, found: Image, model: Image, n_parts: int) -> SkyPartition:
    if part.image is None:
        return part
    new = (found.data - model.data) * _share(part, n_parts)
    return replace(part, image=part.image.with_data(part.image.data + new))


def _told(
    progress: Callable[[Image, Sequence[SkyPartition], int], object],
    residual: Image,
    parts: Sequence[SkyPartition],
    cycle: int,
) -> Image:
    progress(residual, parts, cycle)
    return residual
