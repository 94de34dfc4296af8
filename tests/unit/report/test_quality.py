"""Figures of merit against made-up gains and images whose answers are known."""

import numpy as np
import pytest

from batch_imaging.io.fits_image import ImageHeader, Provenance, write_fits_image
from batch_imaging.model.beam import FWHM_PER_SIGMA, SPEED_OF_LIGHT_M_S, RestoringBeam
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.gains import GainTable
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel
from batch_imaging.report.quality import (
    PlaneQuality,
    fit_brightest,
    iter_planes,
    read_row,
    station_phase_error,
    thermal_noise_jy,
)

N_TIMES, N_STATIONS, FREQ_HZ = 3, 40, np.array([1.0e8, 1.1e8])
GEOMETRY = ImageGeometry(256, 5e-4, Direction.from_degrees(10.0, -30.0))
BEAM = RestoringBeam(3.1e-3, 2.2e-3, np.deg2rad(35.0))


def gain_table(gain, freq_hz=FREQ_HZ, names=None):
    return GainTable(
        gain[..., np.newaxis],
        np.ones((*gain.shape, 1)),
        np.arange(float(len(gain))) * 60,
        np.full(len(gain), 10.0),
        freq_hz,
        ("I",),
        names or tuple(f"S{i}" for i in range(gain.shape[1])),
    )


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def true_gains(rng):
    shape = (N_TIMES, N_STATIONS, len(FREQ_HZ))
    return np.exp(1j * rng.uniform(-np.pi, np.pi, shape))


@pytest.fixture
def uvw_m(rng):
    return rng.uniform(-400, 400, (N_TIMES, N_STATIONS, 3))


def shifted(gains, uvw_m, l, m, constant_rad):
    """Return gains as seen by who believes the sky stands (l, m) away from where it is."""
    wavelength_m = SPEED_OF_LIGHT_M_S / FREQ_HZ
    path_m = uvw_m[..., 0] * l + uvw_m[..., 1] * m
    phase_rad = 2 * np.pi * path_m[:, :, np.newaxis] / wavelength_m + constant_rad
    return gains * np.exp(1j * phase_rad)


def test_a_shift_of_the_sky_and_a_common_phase_are_no_error(true_gains, uvw_m):
    solved = shifted(true_gains, uvw_m, 3e-4, -2e-4, 2.5)
    error = station_phase_error(gain_table(solved), gain_table(true_gains), uvw_m)
    assert error.rms_rad < 1e-12
    np.testing.assert_allclose(error.shift_rad, np.hypot(3e-4, 2e-4), rtol=1e-10)
    u_m, v_m = uvw_m[..., 0], uvw_m[..., 1]
    path_m = u_m * 3e-4 - v_m * 2e-4
    path_m = path_m - path_m.mean(axis=1, keepdims=True)
    expected = [2 * np.pi * nu / SPEED_OF_LIGHT_M_S * path_m for nu in FREQ_HZ]
    assert error.rms_with_shift_rad == pytest.approx(np.std(expected), rel=1e-10)


def test_a_shift_that_wraps_phases_is_found(true_gains, uvw_m):
    solved = shifted(true_gains, uvw_m, 2e-3, 0, -1.0)
    wraps = np.abs(2 * np.pi * uvw_m[..., 0] * 2e-3 * FREQ_HZ[0] / SPEED_OF_LIGHT_M_S).max()
    assert 1.5 < wraps < np.pi
    error = station_phase_error(gain_table(solved), gain_table(true_gains), uvw_m)
    assert error.rms_rad < 1e-12


def test_phase_error_is_what_least_squares_leaves(true_gains, uvw_m, rng):
    noise_rad = 1e-3 * rng.standard_normal(true_gains.shape)
    solved = shifted(true_gains, uvw_m, 1e-4, 1e-4, 0.3) * np.exp(1j * noise_rad)
    error = station_phase_error(gain_table(solved), gain_table(true_gains), uvw_m)
    expected = np.empty_like(noise_rad)
    for t in range(N_TIMES):
        design = np.column_stack([np.ones(N_STATIONS), uvw_m[t, :, :2]])
        hat = design @ np.linalg.solve(design.T @ design, design.T)
        expected[t] = noise_rad[t] - hat @ noise_rad[t]
    np.testing.assert_allclose(error.residual_rad, expected, atol=1e-12)
    assert error.rms_rad == pytest.approx(np.sqrt(np.mean(expected**2)), rel=1e-9)


def test_amplitudes_do_not_matter_and_flagged_stations_do_not_count(true_gains, uvw_m, rng):
    solved = true_gains * rng.uniform(0.5, 2, true_gains.shape)
    solved[:, 7] *= 1j
    table = gain_table(solved)
    table.weight[:, 7] = 0
    error = station_phase_error(table, gain_table(true_gains), uvw_m)
    assert error.rms_rad < 1e-12
    assert np.isnan(error.residual_rad[:, 7]).all()


def test_tables_are_matched_by_name_time_and_frequency(true_gains, uvw_m):
    order = np.arange(N_STATIONS)[::-1]
    names = tuple(f"S{i}" for i in order)
    solved = gain_table(true_gains[:, order][:, :, [1]], FREQ_HZ[[1]] * 1.001, names)
    error = station_phase_error(solved, gain_table(true_gains), uvw_m[:, order])
    assert error.rms_rad < 1e-12


def gaussian_sky(sources):
    components, image = [], np.zeros(GEOMETRY.shape)
    l, m = GEOMETRY.lm_grid()
    for k, (row, column, flux_jy, fwhm_rad) in enumerate(sources):
        l0 = -(column - GEOMETRY.npixel / 2) * GEOMETRY.cell_rad
        m0 = (row - GEOMETRY.npixel / 2) * GEOMETRY.cell_rad
        ra, dec = radec_from_lm(l0, m0, GEOMETRY.phase_centre)
        spectrum = PowerLaw(flux_jy, 1e8, -0.7)
        components.append(
            SkyComponent(f"source {k}", float(ra), float(dec), spectrum, fwhm_rad, fwhm_rad, 0.0)
        )
        major, minor = np.hypot(BEAM.bmaj_rad, fwhm_rad), np.hypot(BEAM.bmin_rad, fwhm_rad)
        sin, cos = np.sin(BEAM.bpa_rad), np.cos(BEAM.bpa_rad)
        along = ((l - l0) * sin + (m - m0) * cos) * FWHM_PER_SIGMA / major
        across = ((l - l0) * cos - (m - m0) * sin) * FWHM_PER_SIGMA / minor
        peak_jy = flux_jy * BEAM.bmaj_rad * BEAM.bmin_rad / (major * minor)
        image += peak_jy * np.exp(-(along**2 + across**2) / 2)
    return SkyModel(tuple(components)), image.astype(np.float32)


OFF_GRID = [
    (100.37, 80.81, 5.0, 0.0),
    (107.1, 83.4, 2.0, 0.0),  # 1.2 beams from the first
    (180.5, 190.5, 1.0, 2e-3),  # extended
    (30.2, 200.9, 0.5, 0.0),
]


def test_fluxes_and_positions_of_off_grid_neighbouring_and_extended_sources():
    sky, image = gaussian_sky(OFF_GRID)
    fits = fit_brightest(image, GEOMETRY, BEAM, sky, 1e8)
    assert [fit.name for fit in fits] == [f"source {k}" for k in range(4)]
    for fit in fits:
        assert fit.ratio == pytest.approx(1, abs=1e-4)
        assert fit.offset_beams < 1e-3


def test_a_shifted_sky_keeps_its_fluxes_and_shows_its_shift():
    sky, image = gaussian_sky(OFF_GRID)
    fits = fit_brightest(np.roll(image, (1, -1), (0, 1)), GEOMETRY, BEAM, sky, 1e8)
    for fit in fits:
        assert fit.ratio == pytest.approx(1, abs=1e-3)
        assert fit.north_rad == pytest.approx(GEOMETRY.cell_rad, rel=1e-3)
        assert fit.east_rad == pytest.approx(GEOMETRY.cell_rad, rel=1e-3)


def test_sources_within_half_a_beam_are_one():
    sky, image = gaussian_sky([(128.3, 128.1, 2.0, 0.0), (129.4, 128.1, 1.0, 0.0)])
    (fit,) = fit_brightest(image, GEOMETRY, BEAM, sky, 1e8)
    assert fit.name == "source 0"
    assert fit.true_jy == pytest.approx(3.0)
    assert fit.ratio == pytest.approx(1, abs=1e-3)


def test_spectra_and_the_order_of_another_frequency():
    sky, image = gaussian_sky(OFF_GRID)
    fits = fit_brightest(image, GEOMETRY, BEAM, sky, 2e8, n_sources=2, order_freq_hz=1e8)
    assert [fit.name for fit in fits] == ["source 0", "source 1"]
    assert fits[0].true_jy == pytest.approx(5 * 2**-0.7)


def test_a_missing_source_and_one_outside_the_image():
    sky, image = gaussian_sky([(100.0, 100.0, 1.0, 0.0), (300.0, 100.0, 9.0, 0.0)])
    (fit,) = fit_brightest(np.zeros_like(image), GEOMETRY, BEAM, sky, 1e8)
    assert not fit.restored_jy > 1e-6
    assert fit_brightest(image, GEOMETRY, BEAM, SkyModel(()), 1e8) == ()


def test_dynamic_range_and_thermal_noise():
    plane = PlaneQuality(1e8, 1e6, BEAM, 10.0, 2e-4, 1e-4)
    assert plane.dynamic_range == pytest.approx(5e4)
    n_vis, sigma_jy = 10_000, 2.0
    assert thermal_noise_jy(n_vis / sigma_jy**2) == pytest.approx(sigma_jy / 100)
    assert np.isnan(thermal_noise_jy(0))


def test_planes_and_rows_are_read_as_they_were_written(tmp_path, rng):
    cube = rng.standard_normal((3, *GEOMETRY.shape)).astype(np.float32)
    header = ImageHeader(
        freq_hz=np.array([1.0e8, 1.1e8, 1.2e8]),
        chan_width_hz=np.full(3, 1e7),
        unit="Jy/beam",
        object_name="",
        telescope="",
        observer="",
        start_mjd_s=5e9,
        end_mjd_s=5e9 + 10,
        reference_itrf_m=np.zeros(3),
        provenance=Provenance("", "", "", "", "", ""),
    )
    path = tmp_path / "cube.fits"
    write_fits_image(path, cube, GEOMETRY, header)
    np.testing.assert_array_equal(np.stack(list(iter_planes(path))), cube)
    np.testing.assert_array_equal(read_row(path, 17), cube[:, 17])
