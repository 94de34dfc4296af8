"""ICAL and spectral imaging end to end, serially, on a small field whose truth is known."""

import re
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from casacore.tables import table

from batch_imaging.errors import DataError
from batch_imaging.io.fits_image import read_fits_image
from batch_imaging.io.gain_table_file import read_gain_table
from batch_imaging.io.measurement_set import read_measurement_set, write_measurement_set
from batch_imaging.kernels.components import factor_baselines, predict_points
from batch_imaging.model.direction import lmn_from_radec
from batch_imaging.model.geometry import station_uvw_m

pytestmark = pytest.mark.integration
SPEED_OF_LIGHT_M_S = 299_792_458.0


@pytest.fixture(scope="module")
def run(make_parameters, run_small):
    """The run whose products most tests look at."""
    return run_small(
        make_parameters(
            rmax=300.0, imaging={"npixel": 256, "cellsize": 0.001}, spectral={"enabled": True}
        )
    )


def plane_of(path, index=0):
    return read_fits_image(path)[0][index]


def flag(path, rows=slice(None)):
    with table(str(path), readonly=False, ack=False) as main:
        flags = main.getcol("FLAG")
        flags[rows] = True
        main.putcol("FLAG", flags)


def dynamic_range(run):
    return np.array([outcome.peak_jy / outcome.rms_jy for outcome in run.ical.windows])


def phase_error_rad(run):
    """Return the rms error of station phases, free of what self-calibration cannot know.

    That is one phase common to all stations, per time and window, and one shift of the sky.
    """
    truth, found = run.result.simulation.gains, read_gain_table(run.ical.files["gains"])
    assert found.gain.shape == truth.gain.shape
    np.testing.assert_allclose(found.time_mjd_s, truth.time_mjd_s, atol=1e-3)
    stations = run.ical.observation.infos[0].stations
    assert found.station_names == stations.names
    uv_m = station_uvw_m(stations.itrf_m, truth.time_mjd_s, run.parameters.phase_centre)[..., :2]
    uv = uv_m[:, :, np.newaxis] * (truth.freq_hz / SPEED_OF_LIGHT_M_S)[:, np.newaxis]
    difference = (found.gain * truth.gain.conj())[..., 0]
    difference *= np.exp(-1j * np.angle(difference.mean(axis=1, keepdims=True)))
    slopes = (uv - uv.mean(axis=1, keepdims=True)).reshape(-1, 2) * 2 * np.pi
    for _ in range(3):
        error = np.angle(difference)
        error = (error - error.mean(axis=1, keepdims=True)).reshape(-1)
        shift = np.linalg.lstsq(slopes, error, rcond=None)[0]
        difference *= np.exp(-1j * (slopes @ shift)).reshape(difference.shape)
    return float(np.sqrt((error**2).mean()))


def test_the_quality_is_that_of_a_noiseless_observation(run):
    assert dynamic_range(run).min() > 10_000
    assert phase_error_rad(run) < 2e-3


def test_fluxes_and_positions_are_those_of_the_sky(run, fit_source):
    geometry = run.ical.setup.geometry
    sky = run.result.simulation.sky
    for window, freq_hz in enumerate(run.parameters.freq_hz):
        image = plane_of(run.ical.files["restored_cube"], window)
        expected = np.stack(geometry.pixel_of(sky.ra_rad, sky.dec_rad), axis=1)
        found = np.array([fit_source(image, *pixel) for pixel in expected])
        np.testing.assert_allclose(found[:, 0], sky.flux_jy(freq_hz)[:, 0], rtol=0.01)
        offset = found[:, 1:] - expected
        common = offset.mean(axis=0)  # self-calibration cannot know where the whole sky stands
        assert np.abs(common).max() < 0.3
        np.testing.assert_allclose(offset, np.broadcast_to(common, offset.shape), atol=0.1)


# astropy says that it worked out geodetic coordinates of the array.
@pytest.mark.filterwarnings("ignore:.*OBSGEO:astropy.wcs.FITSFixedWarning")
def test_astropy_finds_the_sources_where_they_were_put(run):
    for name in ("restored", "restored_cube", "total_cube"):
        files = run.ical.files | run.result.spectral.files
        with fits.open(files[name]) as hdus:
            header, data = hdus[0].header, hdus[0].data.reshape(-1, 256, 256)
        plane = data[len(data) // 2]
        wcs = WCS(header).celestial
        for component in run.result.simulation.sky.components:
            truth = SkyCoord(component.ra_rad, component.dec_rad, unit="rad", frame="icrs")
            column, row = (round(float(x)) for x in wcs.world_to_pixel(truth))
            box = plane[row - 3 : row + 4, column - 3 : column + 4]
            dy, dx = np.unravel_index(box.argmax(), box.shape)
            peak = wcs.pixel_to_world(column - 3 + dx, row - 3 + dy)
            assert peak.separation(truth).rad < 1.5 * run.parameters.cell_rad


def test_every_product_is_there_and_complete(run):
    assert {path.name for path in run.img.iterdir()} == {
        *(f"ska_pipeline_ical_{name}.fits" for name in ("deconvolved", "residual", "restored")),
        *(
            f"ska_pipeline_ical_{name}_cube.fits"
            for name in ("deconvolved", "residual", "restored")
        ),
        *("ska_pipeline_ical_psf.fits", "ska_pipeline_ical_gains.fits"),
        "ska_pipeline_spectral_line_residual_cube.fits",
        "ska_pipeline_spectral_restored_cube.fits",
    }
    files = run.ical.files | run.result.spectral.files
    assert {path.parent for path in files.values()} == {run.img}
    for name in ("deconvolved", "residual", "restored"):
        cube, geometry, freq_hz, _ = read_fits_image(files[f"{name}_cube"])
        assert np.isfinite(cube).all()
        assert geometry.npixel == 256
        np.testing.assert_allclose(freq_hz, run.parameters.freq_hz)
        single, _, single_hz, _ = read_fits_image(files[name])
        np.testing.assert_array_equal(single[0], cube[1])
        np.testing.assert_allclose(single_hz, run.parameters.freq_hz[[1]])


def test_restored_is_model_and_residual(run):
    beams = read_fits_image(run.ical.files["restored_cube"])[3]
    deconvolved = plane_of(run.ical.files["deconvolved"])
    residual, restored = (plane_of(run.ical.files[n]) for n in ("residual", "restored"))
    beam_pixels = beams[1].solid_angle_sr / run.parameters.cell_rad**2
    model_flux_jy = deconvolved.sum()
    assert (restored - residual).sum() == pytest.approx(model_flux_jy * beam_pixels, rel=1e-2)
    psf = plane_of(run.ical.files["psf"])
    assert psf[128, 128] == pytest.approx(1, abs=1e-4) == psf.max()


def test_cycles_go_down_and_stop_for_a_reason(run):
    cycles = run.ical.cycles
    assert [cycle.index for cycle in cycles] == list(range(len(cycles)))
    assert [cycle.context for cycle in cycles[:2]] == ["", "T"]
    assert cycles[-1].rms_jy < cycles[1].rms_jy / 50
    assert cycles[-1].iterations == 0
    assert re.search("converged|below the threshold", run.ical.stopped_because)


def test_channels_hold_no_continuum(run):
    spectral = run.result.spectral
    line = read_fits_image(spectral.files["line_cube"])[0]
    total = read_fits_image(spectral.files["total_cube"])[0]
    assert line.shape == (3, 256, 256)
    assert total.max() / line.std() > 3_000
    np.testing.assert_allclose(
        [c.rms_jy for c in spectral.channels], line.std(axis=(1, 2)), rtol=1e-4
    )
    np.testing.assert_allclose([c.peak_jy for c in spectral.channels], total.max(axis=(1, 2)))
    assert [c.freq_hz for c in spectral.channels] == run.parameters.freq_hz.tolist()


# Variants, smaller still


@pytest.fixture(scope="module")
def small(make_parameters, run_small):
    return run_small(make_parameters())


@pytest.mark.parametrize("context", ["", "T", "TG", "TGB"])
def test_every_context_calibrates_what_it_can(make_parameters, run_small, small, context):
    parameters = make_parameters(
        simulation={"phase_error": 0.5 if "T" in context else 0.0},
        ical={"calibration_context": context},
    )
    run = run_small(parameters)
    assert dynamic_range(run).min() > 1_000
    assert run.ical.cycles[-1].context == context
    gains = read_gain_table(run.ical.files["gains"])
    assert gains.corr == (("XX", "YY") if "G" in context else ("I",))
    assert gains.gain.shape == (3, len(gains.station_names), 3, len(gains.corr))
    if context == "":
        assert (gains.gain == 1).all()
    np.testing.assert_allclose(np.abs(gains.gain), 1, atol=0.05)  # none were wrong in amplitude


@pytest.mark.parametrize(
    ("algorithm", "weighting"),
    [("msclean", "uniform"), ("hogbom", "robust"), ("mmclean", "robust")],
)
def test_algorithms_and_weightings(make_parameters, run_small, fit_source, algorithm, weighting):
    run = run_small(
        make_parameters(
            ical={"algorithm": algorithm},
            imaging={"weighting": weighting, "npixel": 256, "cellsize": 0.001},
            rmax=300.0,
        )
    )
    assert dynamic_range(run).min() > 300
    assert phase_error_rad(run) < 2e-2
    sky, image = run.result.simulation.sky, plane_of(run.ical.files["restored"])
    rows, columns = run.ical.setup.geometry.pixel_of(sky.ra_rad, sky.dec_rad)
    brightest, _, _ = fit_source(image, rows[0], columns[0])
    assert brightest == pytest.approx(sky.flux_jy(1e8)[0, 0], rel=0.03)


def test_the_budget_and_the_iterations_are_kept(make_parameters, run_small):
    run = run_small(make_parameters(ical={"nmajor": 2, "niter": 7, "convergence": 0.0}))
    assert [cycle.iterations for cycle in run.ical.cycles] == [7, 7, 0]
    assert run.ical.stopped_because == "the budget of 2 major cycles is spent"


def test_the_threshold_is_kept(make_parameters, run_small, small):
    run = run_small(make_parameters(ical={"threshold": 1.0}))
    assert 0.5 < run.ical.cycles[-1].peak_jy < 1.05
    assert small.ical.cycles[-1].peak_jy < 0.2


def test_first_selfcal_is_when_gains_begin(make_parameters, run_small):
    run = run_small(make_parameters(ical={"first_selfcal": 3, "nmajor": 4, "convergence": 0.0}))
    assert [cycle.context for cycle in run.ical.cycles] == ["", "", "", "T", "T"]


def test_the_original_rules_limit_what_the_automatic_ones_reach(make_parameters, run_small, small):
    original = run_small(make_parameters(ical={"preset": "original"}))
    assert len(original.ical.cycles) <= 6
    assert all(cycle.iterations <= 1000 for cycle in original.ical.cycles)
    assert re.search("below the threshold|budget of 5", original.ical.stopped_because)
    assert np.median(dynamic_range(original)) < np.median(dynamic_range(small))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_flagged_window_is_blank_and_the_others_go_on(make_parameters, run_small, lost):
    parameters = make_parameters(spectral={"enabled": True})
    sets = run_small(make_parameters(ical={"nmajor": 1})).result.simulation.sets
    flag(sets[lost])
    run = run_small(parameters, sets=sets)
    blank = [window == lost for window in range(3)]
    for name in ("deconvolved", "residual", "restored"):
        cube = read_fits_image(run.ical.files[f"{name}_cube"])[0]
        assert np.isnan(cube).all(axis=(1, 2)).tolist() == blank
        assert np.isfinite(cube[np.logical_not(blank)]).all()
    line = read_fits_image(run.result.spectral.files["line_cube"])[0]
    assert np.isnan(line).all(axis=(1, 2)).tolist() == blank
    assert run.ical.windows[lost].beam is None
    assert run.result.spectral.channels[lost].beam is None
    assert dynamic_range(run)[np.logical_not(blank)].min() > 1_000
    assert (run.ical.gain_table.weight[:, :, lost] == 0).all()


@pytest.mark.parametrize("rows_left", [1, 2, 60])
def test_a_poor_window_does_not_harm_the_others(make_parameters, run_small, rows_left, caplog):
    sets = run_small(make_parameters(ical={"nmajor": 1})).result.simulation.sets
    with table(str(sets[2]), ack=False) as main:
        flag(sets[2], np.arange(main.nrows()) >= rows_left)
    run = run_small(make_parameters(spectral={"enabled": True}), sets=sets)
    assert dynamic_range(run)[:2].min() > 1_000
    if rows_left == 1:
        assert "no beam fits" in run.ical.windows[2].problem
        assert run.ical.windows[2].problem in caplog.text


@pytest.mark.parametrize("context", ["G", "TG", "TGB"])
def test_errors_of_amplitude_and_phase_by_hand_are_taken_out(
    make_parameters, run_small, fit_source, context
):
    phase_error = 0.5 if "T" in context else 0.0
    settings = make_parameters(simulation={"phase_error": phase_error}, ical={"nmajor": 1})
    first = run_small(settings).result
    sets = first.simulation.sets
    rng = np.random.default_rng(3)
    for path in sets:
        with table(str(path), ack=False, readonly=False) as main:
            p, q, data = (main.getcol(name) for name in ("ANTENNA1", "ANTENNA2", "DATA"))
            shape = (p.max() + 2, 2)
            gain = (1 + 0.2 * rng.standard_normal(shape)) * np.exp(
                0.3j * rng.standard_normal(shape)
            )
            gain /= np.abs(gain).mean(axis=0)
            main.putcol("DATA", data * (gain[p] * gain[q].conj())[:, np.newaxis])
    run = run_small(make_parameters(ical={"calibration_context": context}), sets=sets)
    assert dynamic_range(run).min() > 1_000
    image, geometry, freq_hz, _ = read_fits_image(run.ical.files["restored"])
    brightest = first.simulation.apparent.components[0]
    restored_jy, *_ = fit_source(image[0], *geometry.pixel_of(brightest.ra_rad, brightest.dec_rad))
    assert restored_jy == pytest.approx(brightest.spectrum.flux_jy(freq_hz)[0], rel=0.02)
    table_read = read_gain_table(run.ical.files["gains"])
    assert (table_read.weight > 0).all()
    reference = table_read.gain[0, :, 2].conj()  # of the last window, conjugated as in DATA
    np.testing.assert_allclose(np.abs(reference), np.abs(gain), rtol=0.05)


def test_nothing_but_flags_is_refused_in_one_line(make_parameters, run_small):
    sets = run_small(make_parameters(nfreqwin=2, ical={"nmajor": 1})).result.simulation.sets
    for path in sets:
        flag(path)
    with pytest.raises(DataError, match="flagged") as caught:
        run_small(make_parameters(nfreqwin=2), sets=sets)
    assert "\n" not in str(caught.value)


def test_a_flagged_station_and_time_do_no_harm(make_parameters, run_small):
    sets = run_small(make_parameters(ical={"nmajor": 1})).result.simulation.sets
    for path in sets:
        with table(str(path), ack=False) as main:
            of_station = (main.getcol("ANTENNA1") == 5) | (main.getcol("ANTENNA2") == 5)
            last = main.getcol("TIME") == main.getcol("TIME").max()
        flag(path, of_station | last)
    run = run_small(make_parameters(), sets=sets)
    assert dynamic_range(run).min() > 300
    gains = run.ical.gain_table
    assert (gains.weight[:, 5] == 0).all()
    assert (gains.weight[2] == 0).all()
    assert (gains.gain[:, 5] == 1).all()


def test_one_set_of_many_channels(make_parameters, run_small, small, tmp_path):
    blocks = [read_measurement_set(path) for path in small.result.simulation.sets]
    joined = replace(
        blocks[0],
        vis=np.concatenate([b.vis for b in blocks], axis=1),
        weight=np.concatenate([b.weight for b in blocks], axis=1),
        freq_hz=np.concatenate([b.freq_hz for b in blocks]),
        chan_width_hz=np.concatenate([b.chan_width_hz for b in blocks]),
    )
    # Channels of one set share their phases, so each gets those of its own window taken out.
    truth = small.result.simulation.gains.gain[..., 0].conj()
    t = np.searchsorted(np.unique(joined.time_mjd_s), joined.time_mjd_s)
    factor = truth[t, joined.antenna1] * truth[t, joined.antenna2].conj()
    joined = joined.with_vis((joined.vis / factor[:, :, np.newaxis]).astype(np.complex64))
    path = tmp_path / "joined.ms"
    write_measurement_set(path, joined)
    run = run_small(make_parameters(spectral={"enabled": True}), sets=[path])
    assert len(run.ical.windows) == 2
    assert [window.window.channels for window in run.ical.windows] in (
        [(0, 1), (1, 3)],
        [(0, 2), (2, 3)],
    )
    np.testing.assert_allclose(
        [c.freq_hz for c in run.result.spectral.channels], small.parameters.freq_hz
    )
    assert run.ical.windows[0].peak_jy == pytest.approx(small.ical.windows[0].peak_jy, rel=0.1)
    assert dynamic_range(run).min() > 300


def test_a_single_window_and_a_single_time(make_parameters, run_small):
    run = run_small(make_parameters(nfreqwin=1, ntimes=1, rmax=300.0, spectral={"enabled": True}))
    assert len(run.ical.windows) == 1
    assert dynamic_range(run)[0] > 300
    assert read_fits_image(run.result.spectral.files["line_cube"])[0].shape == (1, 128, 128)


def test_an_empty_sky_gives_an_empty_image(make_parameters, run_small):
    run = run_small(make_parameters(simulation={"sky": "generated", "flux_limit": 1e5}))
    assert run.ical.stopped_because == "the residual is zero"
    assert not read_fits_image(run.ical.files["restored_cube"])[0].any()


def test_thermal_noise_is_what_remains(make_parameters, run_small):
    noise_jy = 3.0
    run = run_small(
        make_parameters(
            rmax=300.0,
            simulation={"noise": noise_jy, "phase_error": 0.3},
            imaging={"npixel": 128, "cellsize": 0.002},
        )
    )
    n_stations = len(run.ical.observation.infos[0].stations)
    theory_jy = noise_jy / np.sqrt(3 * n_stations * (n_stations - 1) / 2)
    for outcome in run.ical.windows:
        assert outcome.rms_jy == pytest.approx(theory_jy, rel=0.15)


def test_a_line_is_left_where_it_was_put(make_parameters, run_small, small, fit_source, tmp_path):
    block = read_measurement_set(small.result.simulation.sets[1])
    freq_hz = block.freq_hz[0] + 1e4 * np.arange(16)
    l, m, line_jy, line_chan = 0.0413, -0.0527, 0.5, 11
    sky = small.result.simulation.sky
    lmn = np.stack(lmn_from_radec(sky.ra_rad, sky.dec_rad, block.phase_centre))
    lmn = np.column_stack([lmn, [l, m, np.sqrt(1 - l**2 - m**2) - 1]])
    flux_jy = np.vstack([sky.flux_jy(freq_hz), line_jy * (np.arange(16) == line_chan)])
    factors = factor_baselines(
        block.uvw_m, block.time_mjd_s, block.antenna1, block.antenna2, len(block.stations), 1e-6
    )
    vis = predict_points(factors, freq_hz, lmn, flux_jy).astype(np.complex64)
    path = tmp_path / "line.ms"
    write_measurement_set(
        path,
        replace(
            block,
            vis=np.repeat(vis[:, :, np.newaxis], 2, axis=2),
            weight=np.ones((*vis.shape, 2), dtype=np.float32),
            freq_hz=freq_hz,
            chan_width_hz=np.full(16, 1e4),
        ),
    )
    run = run_small(
        make_parameters(ical={"calibration_context": ""}, spectral={"enabled": True}), sets=[path]
    )
    cube = read_fits_image(run.result.spectral.files["line_cube"])[0]
    geometry = run.ical.setup.geometry
    place = np.array([m, -l]) / geometry.cell_rad + geometry.npixel // 2
    found_jy, *where = fit_source(cube[line_chan], *place)
    # Of a line in one of the eight channels of a window up to an eighth is taken for continuum.
    assert 7 / 8 * line_jy < found_jy < 1.02 * line_jy
    np.testing.assert_allclose(where, place, atol=0.2)
    others = np.delete(cube, line_chan, axis=0)
    assert np.abs(others).max() < line_jy / 8
