"""What scripts start from: stations, visibilities, images, skies, and the simulate workflow."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batch_imaging import __version__
from batch_imaging.errors import ParameterError
from batch_imaging.execution import rsexecute
from batch_imaging.io.fits_image import ImageHeader, Provenance, write_fits_image
from batch_imaging.io.measurement_set import read_measurement_set
from batch_imaging.kernels.components import factor_baselines
from batch_imaging.kernels.prediction import Components, predict_components
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S, station_power_beam
from batch_imaging.model.direction import Direction, lmn_from_radec
from batch_imaging.model.geometry import GeodeticPosition, station_uvw_m, times_for_hour_angles
from batch_imaging.model.image import Image, ImageGeometry
from batch_imaging.model.population import draw_population
from batch_imaging.model.ska_low import STATION_DIAMETER_M, select_within, ska1_low
from batch_imaging.model.sky import SkyComponent, SkyModel, TabulatedSpectrum
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.pipelines.scripting.keywords import require_one_of, workflow

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord  # takes longer to import than the rest

Floats = NDArray[np.float64]

CONFIGURATIONS_M = {"LOWBD2": np.inf, "LOW": np.inf, "SKA1-LOW": np.inf, "LOWBD2-CORE": 500.0}
"""Known arrays and their radii, metres: all of them this package's own SKA1-Low layout."""

DATE = "2020-05-23"
DEFAULT_CENTRE = Direction.from_degrees(15.0, -60.0)
_UVW_TOLERANCE_M = 1e-3


class PolarisationFrame(StrEnum):
    """What correlations visibilities have: ``PolarisationFrame("stokesI")``."""

    STOKES_I = "stokesI"
    LINEAR_NP = "linearnp"

    @property
    def corr(self) -> tuple[str, ...]:
        return ("I",) if self is PolarisationFrame.STOKES_I else ("XX", "YY")


@workflow()
def simulate_list_rsexecute_workflow(
    config: str | StationLayout = "LOWBD2",
    phasecentre: "SkyCoord | Direction" = DEFAULT_CENTRE,
    frequency: ArrayLike = (1e8,),
    channel_bandwidth: ArrayLike = (1e6,),
    times: ArrayLike = (0.0,),
    polarisation_frame: str = PolarisationFrame.STOKES_I,
    order: Literal["frequency", "time", "both"] | None = "frequency",
    format: Literal["blockvis", "vis"] = "blockvis",
    rmax: float = 1000.0,
    zerow: bool = False,
) -> list[Visibility]:
    """Make visibilities of zero: uvw, times and weights of an observation.

    Parameters
    ----------
    config: a layout, or the name of one for :func:`create_named_configuration`.
    frequency, channel_bandwidth: (chan,) Hz.
    times: (time,) hour angles, radians.
    order: one element for each "frequency", each "time" or "both"; None: one for all.
    format: both names stand for the same visibilities.
    rmax: metres from the middle of the array.
    zerow: set w to zero.
    """
    require_one_of("order", str(order), ("frequency", "time", "both", "None"))
    require_one_of("format", format, ("blockvis", "vis"))
    layout = create_named_configuration(config, rmax=rmax) if isinstance(config, str) else config
    freq_hz, hour_angles = np.atleast_1d(frequency), np.atleast_1d(times)
    width_hz = np.broadcast_to(np.asarray(channel_bandwidth, dtype=float), freq_hz.shape)
    chans = [[k] for k in range(len(freq_hz))] if order in {"frequency", "both"} else [slice(None)]
    instants = (
        [[k] for k in range(len(hour_angles))] if order in {"time", "both"} else [slice(None)]
    )
    create = rsexecute.execute(create_visibility)
    return [
        create(
            layout,
            hour_angles[instant],
            freq_hz[chan],
            channel_bandwidth=width_hz[chan],
            phasecentre=phasecentre,
            polarisation_frame=polarisation_frame,
            zerow=zerow,
        )
        for instant in instants
        for chan in chans
    ]


@workflow()
def create_named_configuration(name: str = "LOWBD2", rmax: float | None = None) -> StationLayout:
    """Return an array: "LOWBD2", "SKA1-LOW" or "LOWBD2-CORE", out to ``rmax`` metres.

    Raises
    ------
    ParameterError: there is no such array, or fewer than three stations are left.
    """
    require_one_of("configuration", name, CONFIGURATIONS_M)
    return select_within(ska1_low(), min(rmax or np.inf, CONFIGURATIONS_M[name]))


@workflow()
def create_visibility(
    config: StationLayout,
    times: ArrayLike,
    frequency: ArrayLike,
    phasecentre: "SkyCoord | Direction",
    weight: float = 1.0,
    channel_bandwidth: ArrayLike = (1e6,),
    polarisation_frame: str = PolarisationFrame.STOKES_I,
    integration_time: float = 1.0,
    zerow: bool = False,
    date: str = DATE,
) -> Visibility:
    """Return visibilities of zero for all cross-correlations of an array.

    Parameters
    ----------
    times: (time,) hour angles about the transit of ``date`` (UTC), radians.
    frequency, channel_bandwidth: (chan,) Hz.
    weight: of each sample, 1/Jy².
    integration_time: seconds.
    """
    centre, corr = _direction(phasecentre), _frame(polarisation_frame).corr
    longitude_rad = GeodeticPosition.from_itrf(config.reference_itrf_m).longitude_rad
    time_mjd_s = times_for_hour_angles(times, centre, longitude_rad, date)
    first, second = (a.astype(np.int32) for a in np.triu_indices(len(config), 1))
    stations_m = station_uvw_m(config.itrf_m, time_mjd_s, centre)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    if zerow:
        uvw_m[:, 2] = 0
    freq_hz = np.atleast_1d(np.asarray(frequency, dtype=float))
    shape = (len(uvw_m), len(freq_hz), len(corr))
    return Visibility(
        uvw_m=uvw_m,
        time_mjd_s=np.repeat(time_mjd_s, len(first)),
        antenna1=np.tile(first, len(time_mjd_s)),
        antenna2=np.tile(second, len(time_mjd_s)),
        vis=np.zeros(shape, dtype=np.complex64),
        weight=np.full(shape, weight, dtype=np.float32),
        freq_hz=freq_hz,
        chan_width_hz=np.array(np.broadcast_to(channel_bandwidth, freq_hz.shape), dtype=float),
        corr=corr,
        integration_s=integration_time,
        phase_centre=centre,
        stations=config,
    )


create_blockvisibility = create_visibility


@workflow()
def create_visibility_from_ms(
    msname: str | Path,
    start_chan: int | None = None,
    end_chan: int | None = None,
    datacolumn: str = "DATA",
) -> list[Visibility]:
    """Read a Measurement Set of one field and one spectral window: a list of one element.

    ``start_chan`` and ``end_chan`` are the first and the last channel.
    """
    channels = slice(start_chan, None if end_chan is None else end_chan + 1)
    return [read_measurement_set(Path(msname), column=datacolumn, channels=channels)]


create_blockvisibility_from_ms = create_visibility_from_ms


@workflow()
def create_image_from_visibility(
    vis: Visibility,
    npixel: int = 512,
    cellsize: float = 0.001,
    frequency: ArrayLike | None = None,
    channel_bandwidth: ArrayLike | None = None,
    phasecentre: "SkyCoord | Direction | None" = None,
    polarisation_frame: str = PolarisationFrame.STOKES_I,
    nchan: int | None = None,
) -> Image:
    """Return an empty image about the phase centre of visibilities.

    Parameters
    ----------
    cellsize: radians a pixel, of which there is an even number ``npixel``.
    frequency, channel_bandwidth: (chan,) Hz of the planes; by default those of the visibilities.
    nchan: 1: one plane of all channels.
    """
    width_hz = vis.chan_width_hz if channel_bandwidth is None else np.atleast_1d(channel_bandwidth)
    freq_hz = vis.freq_hz if frequency is None else np.atleast_1d(frequency)
    if nchan == 1:
        freq_hz, width_hz = freq_hz.mean(keepdims=True), width_hz.sum(keepdims=True)
    elif nchan not in {None, len(freq_hz)}:
        raise ParameterError(f"nchan = {nchan}: 1, or as many as frequencies, {len(freq_hz)}")
    return _empty_image(
        npixel,
        cellsize,
        vis.phase_centre if phasecentre is None else _direction(phasecentre),
        freq_hz,
        width_hz,
        polarisation_frame,
    )


@workflow()
def create_low_test_image_from_gleam(
    npixel: int = 512,
    polarisation_frame: str = PolarisationFrame.STOKES_I,
    cellsize: float = 0.001,
    frequency: ArrayLike = (1e8,),
    channel_bandwidth: ArrayLike = (1e6,),
    phasecentre: "SkyCoord | Direction" = DEFAULT_CENTRE,
    applybeam: bool = False,
    flux_limit: float = 0.1,
    seed: int = 0,
) -> Image:
    """Return an image of random point sources, with the source counts of the GLEAM survey.

    No catalogue is needed. Each source is put on the pixel nearest to it.

    Parameters
    ----------
    applybeam: multiply by the power beam of a station.
    flux_limit: Jy, at the mean frequency; seed: another one draws another sky.
    """
    image = _empty_image(
        npixel,
        cellsize,
        _direction(phasecentre),
        np.atleast_1d(frequency),
        np.atleast_1d(channel_bandwidth),
        polarisation_frame,
    )
    sky = create_test_skycomponents_from_s3(
        phasecentre=phasecentre,
        frequency=frequency,
        radius=npixel * cellsize / 2,
        flux_limit=flux_limit,
        seed=seed,
    )
    filled = insert_skycomponent(image, sky)
    if not applybeam:
        return filled
    l, m = image.geometry.lm_grid()
    beam = np.stack([station_power_beam(l, m, nu, STATION_DIAMETER_M) for nu in image.freq_hz])
    return filled.with_data(filled.data * beam[:, np.newaxis].astype(np.float32))


@workflow()
def create_test_skycomponents_from_s3(
    phasecentre: "SkyCoord | Direction" = DEFAULT_CENTRE,
    frequency: ArrayLike = (1e8,),
    radius: float = 0.1,
    flux_limit: float = 0.1,
    seed: int = 0,
) -> SkyModel:
    """Return random point sources in a square of ±``radius`` radians, brightest first.

    See :func:`batch_imaging.model.population.draw_population` for whose numbers they have.
    """
    return draw_population(
        centre=_direction(phasecentre),
        field_rad=radius,
        flux_limit_jy=flux_limit,
        ref_freq_hz=float(np.asarray(frequency, dtype=float).mean()),
        seed=seed,
    )


@workflow()
def create_skycomponent(
    direction: "SkyCoord | Direction",
    flux: ArrayLike,
    frequency: ArrayLike,
    name: str = "source",
    polarisation_frame: str = PolarisationFrame.STOKES_I,
) -> SkyModel:
    """Return a sky of one point source.

    Parameters
    ----------
    flux: Jy (chan,) or (chan, 1); frequency: (chan,) Hz, power laws between them.
    """
    _require_stokes_i(polarisation_frame)
    at = _direction(direction)
    knots = np.atleast_1d(np.asarray(frequency, dtype=float))
    fluxes = np.broadcast_to(np.reshape(np.asarray(flux, dtype=float), -1), knots.shape)
    spectrum = TabulatedSpectrum(tuple(map(float, knots)), tuple(map(float, fluxes)))
    return SkyModel((SkyComponent(name, at.ra_rad, at.dec_rad, spectrum),))


@workflow()
def insert_skycomponent(im: Image, sc: SkyModel | Sequence[SkyModel]) -> Image:
    """Return the image with components added, each on the nearest pixel; those outside left out."""
    sky = _one_sky(sc)
    data, npixel = im.data.copy(), im.geometry.npixel
    rows, columns = im.geometry.pixel_of(sky.ra_rad, sky.dec_rad)
    inside = (np.abs(rows - npixel / 2) < npixel / 2 - 1) & (
        np.abs(columns - npixel / 2) < npixel / 2 - 1
    )
    at = np.rint(rows[inside]).astype(int), np.rint(columns[inside]).astype(int)
    for plane, flux_jy in zip(data[:, 0], sky.flux_jy(im.freq_hz)[inside].T, strict=True):
        np.add.at(plane, at, flux_jy)
    return im.with_data(data)


@workflow()
def predict_skycomponent_visibility(
    vis: Visibility, sc: SkyModel | Sequence[SkyModel]
) -> Visibility:
    """Return what the array sees of components, each at its own place, not on a pixel."""
    sky = _one_sky(sc)
    lmn = np.stack(lmn_from_radec(sky.ra_rad, sky.dec_rad, vis.phase_centre))
    shapes = [(c.bmaj_rad, c.bmin_rad, c.bpa_rad) for c in sky.components]
    factors = factor_baselines(
        vis.uvw_m, vis.time_mjd_s, vis.antenna1, vis.antenna2, len(vis.stations), _UVW_TOLERANCE_M
    )
    components = Components(lmn, sky.flux_jy(vis.freq_hz), np.reshape(shapes, (-1, 3)))
    predicted = predict_components(components, vis.uvw_m, vis.freq_hz, factors, "product")
    full = np.repeat(predicted[..., np.newaxis], len(vis.corr), axis=2)
    return vis.with_vis(full.astype(np.complex64))


dft_skycomponent_visibility = predict_skycomponent_visibility


@workflow()
def advise_wide_field(
    vis: Visibility, guard_band_image: float = 6.0, oversampling_synthesised_beam: float = 3.0
) -> dict[str, Any]:
    """Return what would suit images of these visibilities.

    Parameters
    ----------
    guard_band_image: field of view in units of λ/D, the primary beam of a station.
    oversampling_synthesised_beam: pixels over the shortest fringe.

    Returns
    -------
    ``cellsize``, ``synthesized_beam``, ``primary_beam`` and ``image_fov`` in radians, ``npixels``,
    ``npixels2`` (the next power of two) and ``vis_slices``, 1: no slices in w are needed.
    """
    shortest_m = SPEED_OF_LIGHT_M_S / vis.freq_hz.max()
    beam_rad = shortest_m / float(np.hypot(vis.uvw_m[:, 0], vis.uvw_m[:, 1]).max())
    primary_rad = SPEED_OF_LIGHT_M_S / vis.freq_hz.min() / float(vis.stations.diameter_m.mean())
    cell_rad = beam_rad / (2 * oversampling_synthesised_beam)
    npixel = 2 * ceil(min(guard_band_image * primary_rad, 1.4) / cell_rad / 2)
    return {
        "cellsize": cell_rad,
        "synthesized_beam": beam_rad,
        "primary_beam": primary_rad,
        "image_fov": npixel * cell_rad,
        "npixels": npixel,
        "npixels2": 2 ** ceil(log2(npixel)),
        "vis_slices": 1,
    }


@workflow()
def export_image_to_fits(
    im: Image, fitsfile: str | Path = "imaging.fits", vis: Visibility | None = None
) -> None:
    """Write an image, in Jy/beam if it is restored, else Jy/pixel, as FITS.

    ``vis`` are visibilities that it shows; the header has their field, array and times.
    """
    header = ImageHeader(
        freq_hz=im.freq_hz,
        chan_width_hz=im.chan_width_hz,
        unit="Jy/pixel" if im.beams is None else "Jy/beam",
        object_name="",
        telescope="",
        observer="",
        start_mjd_s=np.nan,
        end_mjd_s=np.nan,
        reference_itrf_m=np.full(3, np.nan),
        provenance=Provenance("batch_imaging", __version__, "", "", "", ""),
        beams=im.beams or (),
    )
    if vis is not None:
        header = replace(
            header,
            object_name=vis.field_name,
            telescope=vis.stations.array_name,
            start_mjd_s=float(vis.time_mjd_s.min() - vis.integration_s / 2),
            end_mjd_s=float(vis.time_mjd_s.max() + vis.integration_s / 2),
            reference_itrf_m=vis.stations.reference_itrf_m,
        )
    write_fits_image(Path(fitsfile), im.data[:, 0].astype(np.float32), im.geometry, header)


def _empty_image(
    npixel: int,
    cell_rad: float,
    centre: Direction,
    freq_hz: Floats,
    width_hz: Floats,
    polarisation_frame: str,
) -> Image:
    if npixel < 2 or npixel % 2:
        raise ParameterError(f"npixel = {npixel}: an even number of at least 2")
    _require_stokes_i(polarisation_frame)
    return Image(
        np.zeros((len(freq_hz), 1, npixel, npixel), dtype=np.float32),
        ImageGeometry(npixel, cell_rad, centre),
        np.asarray(freq_hz, dtype=float),
        np.array(np.broadcast_to(width_hz, freq_hz.shape), dtype=float),
    )


def _direction(phasecentre: "SkyCoord | Direction") -> Direction:
    if isinstance(phasecentre, Direction):
        return phasecentre
    icrs = phasecentre.icrs
    return Direction(float(icrs.ra.rad), float(icrs.dec.rad))


def _require_stokes_i(polarisation_frame: str) -> None:
    if _frame(polarisation_frame) is not PolarisationFrame.STOKES_I:
        raise ParameterError("models and images are of Stokes I: polarisation_frame='stokesI'")


def _frame(name: str) -> PolarisationFrame:
    require_one_of("polarisation_frame", name, list(PolarisationFrame))
    return PolarisationFrame(name)


def _one_sky(sc: SkyModel | Sequence[SkyModel]) -> SkyModel:
    if isinstance(sc, SkyModel):
        return sc
    return SkyModel(tuple(component for sky in sc for component in sky.components))
