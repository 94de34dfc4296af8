"""ska-data-product.yaml: what data-product catalogues index a folder by.

Interface ska-data-product-meta 0.1 with ObsCore 1.1 values. `declare_products` writes it before the
run, with every file it should make as "working"; `complete_products` rewrites it at the end, with
each file "done" or "failure".
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from batch_imaging import __version__
from batch_imaging.io.fits_image import publishing
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.parameters import Image, Parameters
from batch_imaging.pipelines.batch import RunIdentity
from batch_imaging.pipelines.cube_imaging import CubeResult
from batch_imaging.report.fingerprint import Fingerprint
from batch_imaging.report.provenance import git_commit
from batch_imaging.report.run_record import RunRecord

FILE_NAME = "ska-data-product.yaml"
INTERFACE = "http://schema.skao.int/ska-data-product-meta/0.1"
SECONDS_PER_DAY = 86400.0

_ICAL = {
    "ska_pipeline_ical_restored.fits": "Restored continuum image of the middle window",
    "ska_pipeline_ical_residual.fits": "Residual image of the middle window",
    "ska_pipeline_ical_deconvolved.fits": "Deconvolved model of the middle window",
    "ska_pipeline_ical_psf.fits": "Point spread function of the middle window",
    "ska_pipeline_ical_restored_cube.fits": "Restored continuum images of all windows",
    "ska_pipeline_ical_residual_cube.fits": "Residual images of all windows",
    "ska_pipeline_ical_deconvolved_cube.fits": "Deconvolved models of all windows",
    "ska_pipeline_ical_gains.fits": "Station gains of self-calibration",
}
_IMAGE = {
    "image": "Image of every plane",
    "residual": "Residual of every plane",
    "model": "Deconvolved model of every plane",
    "mask": "Where every plane was cleaned",
}
_SPECTRAL = {
    "ska_pipeline_spectral_restored_cube.fits": "Restored image of every channel",
    "ska_pipeline_spectral_line_residual_cube.fits": "Every channel with the continuum subtracted",
}
_REPORT = {
    "report/index.html": "Report of the run",
    "report/summary.json": "Figures of merit of the run",
    "provenance.json": "Parameters, versions, inputs and checksums",
}

Status = Literal["working", "done", "failure"]


@dataclass(frozen=True, slots=True)
class ProductFile:
    """A file of the data product: path relative to its folder, size in kB of 1000 bytes."""

    path: str
    description: str
    status: Status
    size: int | None = None
    crc: str | None = None

    def document(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def expected_files(parameters: Parameters) -> dict[str, str]:
    """Return path and description of every file that a run of these parameters should make."""
    if parameters.image:
        return _expected_images(parameters.image) | _REPORT
    return _ICAL | (_SPECTRAL if parameters.spectral.enabled else {}) | _REPORT


def _expected_images(image: Image) -> dict[str, str]:
    names = ["image", "residual", "model"] if image.clean else ["image"]
    if image.mask or image.mask_sigma is not None:
        names.append("mask")
    files = {f"{name}.{image.format}": _IMAGE[name] for name in names}
    if image.fit_image is not None:
        files[f"line.{image.format}"] = "Every channel with the continuum subtracted"
    subtracts = image.model or image.fit is not None or image.fit_image is not None
    if image.moments or (image.moments is None and subtracts and image.axis == "channel"):
        files |= {f"moment{n}.fits": f"Moment {n} of the line" for n in (0, 1, 2)}
        files["spectra.csv"] = "Spectra at the brightest positions"
    return files | {"report.html": "Pictures of planes, moments and spectra"}


def execution_block_id(identity: RunIdentity, started: datetime) -> str:
    """Return the execution block's id; without a control system, one made of the starting time."""
    if identity.eb_id:
        return identity.eb_id
    second_of_day = started.hour * 3600 + started.minute * 60 + started.second
    return f"eb-local-{started:%Y%m%d}-{second_of_day:05d}"


def declare_products(
    folder: Path, parameters: Parameters, started: datetime, identity: RunIdentity
) -> Path:
    """Write the metadata of a run that begins: every file "working".

    Raises
    ------
    ProductError: it could not be written.
    """
    files = [
        ProductFile(path, description, "working")
        for path, description in expected_files(parameters).items()
    ]
    return _write(folder, _document(parameters, started, files, identity, _planned(parameters)))


def complete_products(
    run: RunRecord, folder: Path, fingerprints: Mapping[Path, Fingerprint]
) -> Path:
    """Write the metadata of a run that ended: files that are there "done", the others "failure".

    Raises
    ------
    ProductError: it could not be written.
    """
    marks = {path.resolve(): mark for path, mark in fingerprints.items()}
    files = []
    for path, description in expected_files(run.parameters).items():
        mark = marks.get((folder / path).resolve())
        if mark is None:
            files.append(ProductFile(path, description, "failure"))
            continue
        size_kb = -(-mark.size_bytes // 1000)
        files.append(ProductFile(path, description, "done", size_kb, mark.crc32))
    obscore = _planned(run.parameters) | _observed(run)
    document = _document(run.parameters, run.started, files, run.identity, obscore)
    if run.error:
        document["context"]["notes"] = run.error
    return _write(folder, document)


def _document(
    parameters: Parameters,
    started: datetime,
    files: list[ProductFile],
    identity: RunIdentity,
    obscore: dict[str, Any],
) -> dict[str, Any]:
    block = execution_block_id(identity, started)
    return {
        "interface": INTERFACE,
        "execution_block": block,
        "context": {
            "observer": "",
            "intent": "Imaging" if parameters.image else "Self-calibrated imaging",
            "notes": "",
        },
        "config": {
            "processing_block": identity.pb_id or None,
            "processing_script": "batch_imaging",
            "version": __version__,
            "commit": git_commit(),
            "image": None,
            "cmdline": None,
        },
        "files": [file.document() for file in files],
        "obscore": {"obs_id": block, **obscore},
    }


def _planned(parameters: Parameters) -> dict[str, Any]:
    """Return the ObsCore values that follow from the parameters."""
    image = parameters.image
    common = {
        "calib_level": 3,
        "obs_collection": "batch_imaging",
        "access_format": f"application/{image.format if image else 'fits'}",
        "o_unit": "Jy/beam",
    }
    if image:
        return common
    simulated = parameters.simulation.array == "ska1-low"
    return {
        **common,
        "dataproduct_type": "cube" if parameters.nfreqwin > 1 else "image",
        "facility_name": "SKA-Observatory",
        "instrument_name": "SKA-LOW" if simulated else "",
        **_polarisation("I"),
        **_direction(parameters.ra % 360, parameters.dec),
        **_pixels(parameters.imaging.npixel, parameters.cell_rad),
        **_spectral_axis(parameters.freq_hz, parameters.chan_width_hz),
    }


def _observed(run: RunRecord) -> dict[str, Any]:
    """Return the ObsCore values that are known once the data were imaged."""
    if run.result.line:
        return _observed_image(run.result.line.cube)
    if run.result.ical is None:
        return {}
    observation = run.result.ical.observation
    info = observation.infos[0]
    begin_mjd_s, end_mjd_s = observation.time_range_mjd_s
    centre = info.phase_centre
    known = {
        **_direction(np.rad2deg(centre.ra_rad) % 360, np.rad2deg(centre.dec_rad)),
        **_spectral_axis(observation.freq_hz, observation.chan_width_hz),
        "dataproduct_type": "cube" if len(observation.windows) > 1 else "image",
        "instrument_name": "SKA-LOW" if run.truth else info.stations.array_name,
        "target_name": info.field_name,
        "t_min": _rounded(begin_mjd_s / SECONDS_PER_DAY, 12),
        "t_max": _rounded(end_mjd_s / SECONDS_PER_DAY, 12),
        "t_exptime": _rounded(info.n_integrations * info.integration_s),
        "t_resolution": _rounded(info.integration_s),
        "t_xel": info.n_integrations,
    }
    if beams := [outcome.beam for outcome in run.result.ical.windows if outcome.beam]:
        widths_rad = [beam.bmaj_rad for beam in beams]
        known["s_resolution"] = _rounded(np.rad2deg(np.median(widths_rad)) * 3600)
    return known


def _observed_image(cube: CubeResult) -> dict[str, Any]:
    header, geometry = cube.header, cube.geometry
    centre = geometry.phase_centre
    known = {
        "dataproduct_type": "cube" if len(cube.planes) > 1 else "image",
        "instrument_name": header.telescope,
        "target_name": header.object_name,
        **_polarisation(*header.stokes),
        **_direction(np.rad2deg(centre.ra_rad) % 360, np.rad2deg(centre.dec_rad)),
        **_pixels(geometry.npixel, geometry.cell_rad),
        **_spectral_axis(header.freq_hz, header.chan_width_hz),
        "t_min": _rounded(header.start_mjd_s / SECONDS_PER_DAY, 12),
        "t_max": _rounded(header.end_mjd_s / SECONDS_PER_DAY, 12),
    }
    if widths_rad := [plane.beam.bmaj_rad for plane in cube.planes if plane.beam]:
        known["s_resolution"] = _rounded(np.rad2deg(np.median(widths_rad)) * 3600)
    return known


def _polarisation(*stokes: str) -> dict[str, Any]:
    ucds = ["phot.flux.density", *(f"phys.polarization.stokes.{name}" for name in stokes)]
    return {
        "o_ucd": ";".join(ucds),
        "pol_states": f"/{'/'.join(stokes)}/",
        "pol_xel": len(stokes),
    }


def _pixels(npixel: int, cell_rad: float) -> dict[str, Any]:
    return {
        "s_fov": _rounded(np.rad2deg(cell_rad) * npixel),
        "s_pixel_scale": _rounded(np.rad2deg(cell_rad) * 3600),
        "s_xel1": npixel,
        "s_xel2": npixel,
    }


def _direction(ra_deg: float, dec_deg: float) -> dict[str, float]:
    return {"s_ra": _rounded(ra_deg, 10), "s_dec": _rounded(dec_deg, 10)}


def _spectral_axis(freq_hz: np.ndarray, width_hz: np.ndarray) -> dict[str, Any]:
    low_hz, high_hz = (freq_hz - width_hz / 2).min(), (freq_hz + width_hz / 2).max()
    return {
        "em_min": _rounded(SPEED_OF_LIGHT_M_S / high_hz),
        "em_max": _rounded(SPEED_OF_LIGHT_M_S / low_hz),
        "em_xel": len(freq_hz),
        "em_res_power": _rounded(np.median(freq_hz / width_hz)),
    }


def _rounded(value: float, digits: int = 8) -> float:
    """Return a plain float of so many significant digits."""
    return float(f"{value:.{digits}g}")


def _write(folder: Path, document: Mapping[str, Any]) -> Path:
    path = folder / FILE_NAME
    with publishing(path) as partial:
        partial.write_text(yaml.safe_dump(dict(document), sort_keys=False, width=100))
    return path
