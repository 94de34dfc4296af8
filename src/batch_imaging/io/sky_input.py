"""The sky that a simulation is asked for: drawn, or read from a catalogue."""

from pathlib import Path

from batch_imaging.errors import DataError
from batch_imaging.io.catalogue import read_catalogue
from batch_imaging.model.direction import lmn_from_radec
from batch_imaging.model.population import draw_population
from batch_imaging.model.sky import SkyModel
from batch_imaging.parameters import Parameters


def load_sky(parameters: Parameters) -> SkyModel:
    """Return the sky's components within the image, or of the whole catalogue.

    Raises
    ------
    DataError: the catalogue cannot be read, or has no source above the flux limit and the horizon
        of the image.
    ParameterError: the flux limit is fainter than source counts are known.
    """
    simulation, freq_hz = parameters.simulation, float(parameters.freq_hz.mean())
    if simulation.sky == "generated":
        return draw_population(
            centre=parameters.phase_centre,
            field_rad=parameters.cell_rad * parameters.imaging.npixel / 2,
            flux_limit_jy=simulation.flux_limit,
            ref_freq_hz=freq_hz,
            seed=simulation.seed,
        )
    catalogue = read_catalogue(
        Path(simulation.sky), flux_limit_jy=simulation.flux_limit, ref_freq_hz=freq_hz
    )
    _, _, n_minus_1 = lmn_from_radec(catalogue.ra_rad, catalogue.dec_rad, parameters.phase_centre)
    above = SkyModel(
        tuple(c for c, n in zip(catalogue.components, n_minus_1, strict=True) if n > -1)
    )
    if not above.components:
        raise DataError(
            f"{simulation.sky}: no source above simulation.flux_limit = "
            f"{simulation.flux_limit:g} Jy within 90° of the phase centre; "
            "lower the limit or move the phase centre"
        )
    return above
