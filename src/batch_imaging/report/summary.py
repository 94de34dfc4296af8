"""The numbers of a run: measured once, then shown by the report and kept in summary.json."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from batch_imaging.kernels.noise import robust_noise
from batch_imaging.model.geometry import station_uvw_m
from batch_imaging.parameters import parameter_hash
from batch_imaging.pipelines.ical import IcalResult
from batch_imaging.report.provenance import iso
from batch_imaging.report.quality import (
    PhaseError,
    PlaneQuality,
    SourceFit,
    fit_brightest,
    iter_planes,
    station_phase_error,
    thermal_noise_jy,
)
from batch_imaging.report.run_record import RunRecord

ARCSEC = math.degrees(1) * 3600


@dataclass(frozen=True, slots=True)
class RunQuality:
    """Figures of merit of a run; empty or None where there is nothing to measure.

    Attributes
    ----------
    windows: of ICAL, in order of frequency.
    chosen: the window whose images are written on their own.
    channels: of the spectral cube.
    sources: (window, source) the brightest true sources, the same in every window.
    """

    windows: tuple[PlaneQuality, ...] = ()
    chosen: int = 0
    channels: tuple[PlaneQuality, ...] = ()
    phase: PhaseError | None = None
    sources: tuple[tuple[SourceFit, ...], ...] = ()


def measure_run(run: RunRecord) -> RunQuality:
    """Measure what a run has made so far."""
    ical, spectral = run.result.ical, run.result.spectral
    if ical is None:
        return RunQuality()
    chosen = len(ical.windows) // 2
    channels = () if spectral is None else spectral.channels
    return RunQuality(
        _measure_windows(run, ical),
        chosen,
        tuple(
            PlaneQuality(c.freq_hz, c.chan_width_hz, c.beam, c.peak_jy, c.rms_jy, math.nan)
            for c in channels
        ),
        _measure_phases(run, ical),
        _measure_sources(run, ical, chosen),
    )


def _measure_windows(run: RunRecord, ical: IcalResult) -> tuple[PlaneQuality, ...]:
    # Other weightings trade noise for resolution, and only simulated weights are 1/σ² for sure.
    natural = run.parameters.imaging.weighting == "natural"
    noise_known = natural and run.truth is not None and run.parameters.simulation.noise > 0
    return tuple(
        PlaneQuality(
            float(freq_hz),
            float(width_hz),
            outcome.beam,
            outcome.peak_jy,
            outcome.rms_jy,
            robust_noise(residual),
            thermal_noise_jy(outcome.weight) if noise_known else None,
        )
        for outcome, freq_hz, width_hz, residual in zip(
            ical.windows,
            ical.observation.freq_hz,
            ical.observation.chan_width_hz,
            iter_planes(ical.files["residual_cube"]),
            strict=True,
        )
    )


def _measure_phases(run: RunRecord, ical: IcalResult) -> PhaseError | None:
    if run.truth is None or not run.parameters.ical.calibration_context:
        return None
    solved, info = ical.gain_table, ical.observation.infos[0]
    uvw_m = station_uvw_m(info.stations.itrf_m, solved.time_mjd_s, info.phase_centre)
    return station_phase_error(solved, run.truth.gains, uvw_m)


def _measure_sources(
    run: RunRecord, ical: IcalResult, chosen: int
) -> tuple[tuple[SourceFit, ...], ...]:
    if run.truth is None:
        return ()
    order_freq_hz = float(ical.observation.freq_hz[chosen])
    planes = zip(
        ical.windows,
        ical.observation.freq_hz,
        iter_planes(ical.files["restored_cube"]),
        strict=True,
    )
    # The widest beam decides which sources are one: the same in every window.
    beams = [outcome.beam for outcome in ical.windows if outcome.beam]
    widest = max(beams, key=lambda beam: beam.bmaj_rad, default=None)
    return tuple(
        ()
        if outcome.beam is None
        else fit_brightest(
            restored,
            ical.setup.geometry,
            outcome.beam,
            run.truth.apparent,
            float(freq_hz),
            order_freq_hz=order_freq_hz,
            blend_beam=widest,
        )
        for outcome, freq_hz, restored in planes
    )


def make_summary(run: RunRecord, quality: RunQuality) -> dict[str, Any]:
    """Return summary.json; docs/report.md describes its keys."""
    document: dict[str, Any] = {
        "outcome": run.outcome,
        "error": run.error or None,
        "started": iso(run.started),
        "wall_s": round(run.wall_s, 3),
        "parameter_hash": parameter_hash(run.parameters),
        "stages": [
            {"name": s.name, "units": s.units, "wall_s": round(s.wall_s, 3)} for s in run.stages
        ],
        "peak_rss_bytes": list(run.peak_rss_bytes.values()),
        "peak_rss_total_bytes": sum(run.peak_rss_bytes.values()),
        "chosen_window": quality.chosen if quality.windows else None,
        "windows": [_plane(plane) for plane in quality.windows],
        "channels": [_plane(plane) for plane in quality.channels],
        "phase_error_rad": None,
        "phase_error_with_shift_rad": None,
        "sky_shift_arcsec": None,
        "sources": [],
        "major_cycles": None,
        "stopped_because": None,
    }
    if phase := quality.phase:
        document["phase_error_rad"] = _number(phase.rms_rad)
        document["phase_error_with_shift_rad"] = _number(phase.rms_with_shift_rad)
        document["sky_shift_arcsec"] = _number(_median(phase.shift_rad) * ARCSEC)
    if quality.sources:
        document["sources"] = [_source(fit) for fit in quality.sources[quality.chosen]]
    if ical := run.result.ical:
        document["major_cycles"] = len(ical.cycles)
        document["stopped_because"] = ical.stopped_because
    return document


def _plane(plane: PlaneQuality) -> dict[str, Any]:
    beam = plane.beam
    return {
        "freq_hz": plane.freq_hz,
        "chan_width_hz": plane.chan_width_hz,
        "bmaj_arcsec": _number(beam.bmaj_rad * ARCSEC) if beam else None,
        "bmin_arcsec": _number(beam.bmin_rad * ARCSEC) if beam else None,
        "bpa_deg": _number(math.degrees(beam.bpa_rad)) if beam else None,
        "peak_jy_per_beam": _number(plane.peak_jy),
        "rms_jy_per_beam": _number(plane.rms_jy),
        "noise_jy_per_beam": _number(plane.noise_jy),
        "thermal_noise_jy_per_beam": _number(plane.theory_jy),
        "dynamic_range": _number(plane.dynamic_range),
    }


def _source(fit: SourceFit) -> dict[str, Any]:
    return {
        "name": fit.name,
        "ra_deg": math.degrees(fit.ra_rad),
        "dec_deg": math.degrees(fit.dec_rad),
        "true_jy": _number(fit.true_jy),
        "restored_jy": _number(fit.restored_jy),
        "ratio": _number(fit.ratio),
        "east_arcsec": _number(fit.east_rad * ARCSEC),
        "north_arcsec": _number(fit.north_rad * ARCSEC),
        "offset_beams": _number(fit.offset_beams),
    }


def _number(value: float | None) -> float | None:
    """Return seven significant digits; JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan
