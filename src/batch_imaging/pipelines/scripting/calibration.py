"""Gain tables, and the workflows that draw, apply and solve for them.

V_observed = g_antenna1 · conj(g_antenna2) · V_true, with g the product of what each letter of a
calibration context stands for; see :mod:`batch_imaging.pipelines.calibration`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.execution import rsexecute
from batch_imaging.kernels.gains import baseline_gains
from batch_imaging.model.gains import GainTable
from batch_imaging.model.visibility import Visibility, stokes_i
from batch_imaging.pipelines.calibration import (
    UnitGains,
    apply_gains,
    calibrate_unit,
    integration_rows,
)
from batch_imaging.pipelines.scripting.keywords import require_one_of, workflow
from batch_imaging.pipelines.units import LoadedUnit

GainTables = dict[str, GainTable]
Controls = Mapping[str, Mapping[str, Any]]

ROUNDS = 4
"""How often gains of several letters, which depend on each other, are solved in turn."""

_FIXED_CONTROLS: dict[str, dict[str, Any]] = {
    "T": {"shape": "scalar", "timeslice": "auto", "phase_only": True},
    "G": {"shape": "vector", "timeslice": "auto", "phase_only": False},
    "B": {"shape": "vector", "timeslice": "auto", "phase_only": False},
}


def create_calibration_controls() -> dict[str, dict[str, Any]]:
    """Return what is known of each letter; ``first_selfcal``, a major cycle, may be changed."""
    return {letter: {**fixed, "first_selfcal": 0} for letter, fixed in _FIXED_CONTROLS.items()}


@workflow()
def calibrate_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    model_vislist: Sequence[Visibility],
    calibration_context: str = "TG",
    global_solution: bool = True,
    *,
    controls: Controls | None = None,
    iteration: int = 0,
    do_selfcal: bool = True,
) -> tuple[list[Visibility], list[GainTables]]:
    """Solve for gains and take them out.

    Parameters
    ----------
    model_vislist: of the same rows and channels; the sky is unpolarised. Elements whose model is
        zero keep gains of 1.
    calibration_context: letters T: a phase per integration; G: amplitude and phase of each
        correlation, constant in time; B: the same for each channel.
    global_solution: gains T and G are those of all elements together, which must share rows.
    controls: see :func:`create_calibration_controls`; by default all letters are solved.
    iteration: the major cycle, of which ``first_selfcal`` speaks.
    do_selfcal: false: solve nothing.

    Returns
    -------
    Calibrated visibilities; and gain tables by letter: for each element, or one for all.

    Raises
    ------
    ParameterError: a letter or control that is not known.
    DataError: a global solution for elements of different rows.
    """
    begins = first_selfcal(calibration_context, controls)
    letters = "".join(x for x, begin in begins.items() if do_selfcal and begin <= iteration)
    if global_solution:
        solved = rsexecute.execute(_calibrate_all, nout=len(vis_list) + 1)(
            list(vis_list), list(model_vislist), letters
        )
        return list(solved)[:-1], [solved[len(vis_list)]]
    pairs = [
        rsexecute.execute(_calibrate, nout=2)(vis, model, letters)
        for vis, model in zip(vis_list, model_vislist, strict=True)
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@workflow()
def corrupt_list_rsexecute_workflow(
    vis_list: Sequence[Visibility],
    gt_list: Sequence[GainTable] | None = None,
    seed: int = 0,
    *,
    phase_error: float = 0.1,
    amplitude_error: float = 0.0,
    smooth_channels: int = 1,
) -> list[Visibility]:
    """Multiply by gains: those given, or drawn for each element by :func:`simulate_gaintable`."""
    if gt_list is not None:
        apply = rsexecute.execute(apply_gaintable)
        return [apply(vis, table) for vis, table in zip(vis_list, gt_list, strict=True)]
    corrupt = rsexecute.execute(_corrupt)
    return [
        corrupt(vis, phase_error, amplitude_error, smooth_channels, (seed, index))
        for index, vis in enumerate(vis_list)
    ]


@workflow()
def create_gaintable_from_visibility(vis: Visibility) -> GainTable:
    """Return gains of 1 for each integration, station and channel, the same in all correlations."""
    times = np.unique(vis.time_mjd_s)
    shape = (len(times), len(vis.stations), len(vis.freq_hz), 1)
    return GainTable(
        np.ones(shape, dtype=np.complex128),
        np.ones(shape),
        times,
        np.full(len(times), vis.integration_s),
        vis.freq_hz,
        ("I",),
        vis.stations.names,
    )


create_gaintable_from_blockvisibility = create_gaintable_from_visibility


@workflow()
def simulate_gaintable(
    gt: GainTable,
    phase_error: float = 0.1,
    amplitude_error: float = 0.0,
    smooth_channels: int = 1,
    seed: int | Sequence[int] = 0,
) -> GainTable:
    """Return a table of random gains.

    Parameters
    ----------
    phase_error: radians rms; amplitude_error: rms relative to 1.
    smooth_channels: width of the Gaussian that gains are smoothed by along frequency, channels.
    """
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((2, *gt.gain.shape))
    if smooth_channels > 1:
        chan = np.arange(gt.gain.shape[2])
        kernel = np.exp(-(((chan[:, np.newaxis] - chan) / smooth_channels) ** 2))
        kernel /= np.linalg.norm(kernel, axis=1, keepdims=True)  # the rms stays
        errors = np.einsum("cd,xtsdp->xtscp", kernel, errors)
    gain = (1 + amplitude_error * errors[0]) * np.exp(1j * phase_error * errors[1])
    return replace(gt, gain=gain)


@workflow()
def apply_gaintable(vis: Visibility, gt: GainTable, inverse: bool = False) -> Visibility:
    """Multiply visibilities by their gains or, ``inverse``, divide them.

    Weights follow, and what has no gain loses its weight. Gains of the nearest time and channel
    are taken.
    """
    chan = np.abs(vis.freq_hz[:, np.newaxis] - gt.freq_hz).argmin(axis=1)
    out, weight = np.empty_like(vis.vis), np.empty_like(vis.weight)
    for rows in integration_rows(vis):
        time = np.abs(gt.time_mjd_s - vis.time_mjd_s[rows.start]).argmin()
        gain = baseline_gains(gt.gain[time][:, chan], vis.antenna1[rows], vis.antenna2[rows])
        power = np.abs(gain) ** 2
        reciprocal = np.divide(1, power, out=np.zeros_like(power), where=power > 0)
        factor, gained = (gain.conj() * reciprocal, power) if inverse else (gain, reciprocal)
        out[rows], weight[rows] = vis.vis[rows] * factor, vis.weight[rows] * gained
    return replace(vis, vis=out, weight=weight)


def first_selfcal(
    calibration_context: str, controls: Controls | None, default: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the major cycle in which each letter of a context is solved first.

    ``default`` holds where ``controls`` is None; without it, all begin at 0.
    """
    for letter in calibration_context:
        require_one_of("calibration_context", letter, _FIXED_CONTROLS)
    if controls is None:
        return {letter: (default or {}).get(letter, 0) for letter in calibration_context}
    for letter, settings in controls.items():
        require_one_of("controls", letter, _FIXED_CONTROLS)
        for name, value in settings.items():
            fixed = _FIXED_CONTROLS[letter]
            require_one_of(f"controls[{letter!r}]", name, (*fixed, "first_selfcal"))
            if name in fixed and value != fixed[name]:
                raise ParameterError(
                    f"controls[{letter!r}][{name!r}] = {value!r}: only {fixed[name]!r} is there"
                )
    return {x: int(controls.get(x, {}).get("first_selfcal", 0)) for x in calibration_context}


def _corrupt(
    vis: Visibility, phase_error: float, amplitude_error: float, smooth: int, seed: Sequence[int]
) -> Visibility:
    ones = create_gaintable_from_visibility(vis)
    return apply_gaintable(
        vis, simulate_gaintable(ones, phase_error, amplitude_error, smooth, seed)
    )


def _calibrate(vis: Visibility, model: Visibility, letters: str) -> tuple[Visibility, GainTables]:
    loaded = LoadedUnit(vis, np.zeros(len(vis.freq_hz), dtype=np.intp), None)
    gains = UnitGains.ones(loaded)
    if letters and model.vis.any():
        gains = calibrate_unit(loaded, stokes_i(model)[0], gains, letters, ROUNDS)
    return apply_gains(loaded, gains), _tables(vis, gains, letters)


def _calibrate_all(
    vis_list: Sequence[Visibility], model_vislist: Sequence[Visibility], letters: str
) -> list[Visibility | GainTables]:
    """Return the calibrated visibilities and, last, the gain tables of all of them."""
    calibrated, tables = _calibrate(
        _join_channels(vis_list), _join_channels(model_vislist), letters
    )
    ends = np.cumsum([len(vis.freq_hz) for vis in vis_list])[:-1]
    parts = zip(
        vis_list,
        np.split(calibrated.vis, ends, axis=1),
        np.split(calibrated.weight, ends, axis=1),
        strict=True,
    )
    return [*(replace(v, vis=part, weight=weight) for v, part, weight in parts), tables]


def _join_channels(vis_list: Sequence[Visibility]) -> Visibility:
    first = vis_list[0]
    for vis in vis_list[1:]:
        if vis.n_rows != first.n_rows or not (
            np.array_equal(vis.time_mjd_s, first.time_mjd_s)
            and np.array_equal(vis.antenna1, first.antenna1)
            and np.array_equal(vis.antenna2, first.antenna2)
        ):
            raise DataError(
                "global_solution=True needs visibilities of the same times and baselines; "
                "these differ: use global_solution=False"
            )
    return replace(
        first,
        vis=np.concatenate([vis.vis for vis in vis_list], axis=1),
        weight=np.concatenate([vis.weight for vis in vis_list], axis=1),
        freq_hz=np.concatenate([vis.freq_hz for vis in vis_list]),
        chan_width_hz=np.concatenate([vis.chan_width_hz for vis in vis_list]),
    )


def _tables(vis: Visibility, gains: UnitGains, letters: str) -> GainTables:
    times = np.unique(vis.time_mjd_s)
    middle_mjd_s, span_s = times.mean(keepdims=True), np.ptp(times) + vis.integration_s
    middle_hz = vis.freq_hz.mean(keepdims=True)

    def slow(gain: NDArray[Any], weight: NDArray[Any], freq_hz: NDArray[np.float64]) -> GainTable:
        """Return a table of gains (chan, corr, station) that hold for all times."""
        return GainTable(
            gain.transpose(2, 0, 1)[np.newaxis],
            weight.transpose(2, 0, 1)[np.newaxis],
            middle_mjd_s,
            np.array([span_s]),
            freq_hz,
            vis.corr,
            vis.stations.names,
        )

    tables = {
        "T": GainTable(
            gains.phase.swapaxes(1, 2)[..., np.newaxis],
            gains.phase_weight.swapaxes(1, 2)[..., np.newaxis],
            times,
            np.full(len(times), vis.integration_s),
            middle_hz,
            ("I",),
            vis.stations.names,
        ),
        "G": slow(gains.gain, gains.gain_weight, middle_hz),
        "B": slow(gains.bandpass, gains.bandpass_weight, vis.freq_hz),
    }
    return {letter: tables[letter] for letter in letters}
