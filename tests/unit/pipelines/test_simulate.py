"""Simulated sets: exact visibilities of a written sky, true gains, thermal noise, and the truth."""

from dataclasses import replace

import numpy as np
import pytest
from casacore.tables import table
from scipy.special import j1

from batch_imaging.errors import DataError
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.catalogue import read_catalogue
from batch_imaging.io.gain_table_file import read_gain_table
from batch_imaging.model.visibility import stokes_i
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.simulate import (
    draw_gains,
    make_field,
    make_window,
    run_simulation,
)

POINTS = {"A": (1.5, -29.0, 3.0, -0.7), "B": (358.0, -31.5, 2.0, 0.3)}  # ra, dec, Jy, index
GAUSSIAN = ("C", 0.6, -30.4, 4.0, -0.5, 100.0, 30.0, 35.0)  # …, arcsec, arcsec, degrees
REF_HZ = 1e8


@pytest.fixture
def array(tmp_path):
    path = tmp_path / "stations.csv"
    enu_m = np.random.default_rng(1).uniform(-120, 120, (7, 2))
    far = [[4000.0, 0.0], [-4000.0, 0.0]]  # beyond rmax
    np.savetxt(path, np.concatenate([enu_m - enu_m.mean(axis=0), far]), delimiter=",")
    return path


@pytest.fixture
def catalogue(tmp_path):
    path = tmp_path / "sky.csv"
    rows = [
        "name,ra_deg,dec_deg,flux_jy,ref_freq_hz,spectral_index,bmaj_arcsec,bmin_arcsec,bpa_deg"
    ]
    rows += [
        f"{name},{ra},{dec},{s},{REF_HZ},{a},0,0,0" for name, (ra, dec, s, a) in POINTS.items()
    ]
    name, ra, dec, flux, index, *shape = GAUSSIAN
    rows.append(f"{name},{ra},{dec},{flux},{REF_HZ},{index},{','.join(map(str, shape))}")
    rows.append(f"faint,1.0,-30.0,0.01,{REF_HZ},-0.8,0,0,0")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def make_parameters(array, catalogue):
    """A function that returns parameters of a small case without beam, phase errors and noise."""

    def make(**simulation):
        plain = {
            "array": str(array),
            "sky": str(catalogue),
            "flux_limit": 0.1,
            "primary_beam": False,
            "phase_error": 0.0,
        }
        document = {"nfreqwin": 3, "ntimes": 2, "rmax": 500, "imaging": {"npixel": 128}}
        return load_parameters(document | {"simulation": plain | simulation})

    return make


def direction_cosines(ra_deg, dec_deg):
    """Return (l, m, n) about the phase centre ra 0, dec −30 by a product of unit vectors."""
    ra, dec, dec0 = np.deg2rad([ra_deg, dec_deg, -30.0])
    source = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    east = np.array([0.0, 1.0, 0.0])
    north = np.array([-np.sin(dec0), 0.0, np.cos(dec0)])
    centre = np.array([np.cos(dec0), 0.0, np.sin(dec0)])
    return np.array([east @ source, north @ source, centre @ source])


def wave(block, freq_hz, l, m, n):
    u, v, w = block.uvw_m.T * (freq_hz / 299_792_458.0)
    return np.exp(-2j * np.pi * (u * l + v * m + w * (n - 1)))


def sampled_gaussian(block, freq_hz):
    """Sum a Gaussian on a grid of points, each with its own n."""
    _, ra, dec, flux, index, bmaj, bmin, bpa = GAUSSIAN
    l0, m0, _ = direction_cosines(ra, dec)
    sigma = np.deg2rad(np.array([bmaj, bmin]) / 3600) / np.sqrt(8 * np.log(2))
    steps = np.linspace(-5, 5, 41)
    values = np.exp(-(steps**2) / 2)
    values /= values.sum()
    total = np.zeros(block.n_rows, dtype=complex)
    for along, a in zip(steps * sigma[0], values, strict=True):
        for across, b in zip(steps * sigma[1], values, strict=True):
            sin, cos = np.sin(np.deg2rad(bpa)), np.cos(np.deg2rad(bpa))
            l, m = l0 + along * sin + across * cos, m0 + along * cos - across * sin
            total += a * b * wave(block, freq_hz, l, m, np.sqrt(1 - l**2 - m**2))
    return flux * (freq_hz / REF_HZ) ** index * total


@pytest.mark.parametrize("window", [0, 2])
def test_visibilities_are_the_direct_sum(make_parameters, window):
    field = make_field(make_parameters())
    block = make_window(window, field)
    freq_hz = [0.9e8, 1.0e8, 1.1e8][window]
    expected = sampled_gaussian(block, freq_hz)
    for ra, dec, flux, index in POINTS.values():
        lmn = direction_cosines(ra, dec)
        expected += flux * (freq_hz / REF_HZ) ** index * wave(block, freq_hz, *lmn)
    assert len(field.sky) == 3  # the faint one is below the limit
    assert block.n_rows == 2 * 21  # seven stations within rmax
    assert block.vis.shape == (42, 1, 2)
    for corr in range(2):
        np.testing.assert_allclose(block.vis[:, 0, corr], expected, atol=3e-5)
    assert block.freq_hz.tolist() == [freq_hz]
    assert (block.weight == 1).all()


def test_the_primary_beam_is_that_of_a_round_aperture(make_parameters):
    without = make_field(make_parameters())
    seen = make_field(make_parameters(primary_beam=True, station_diameter=30.0))
    for k, component in enumerate(seen.sky.components):
        l, m, _ = direction_cosines(np.rad2deg(component.ra_rad), np.rad2deg(component.dec_rad))
        x = np.pi * 30.0 * np.array([0.9e8, 1.0e8, 1.1e8]) / 299_792_458.0 * np.hypot(l, m)
        np.testing.assert_allclose(
            seen.apparent_jy[k] / without.apparent_jy[k], (2 * j1(x) / x) ** 2
        )
    assert seen.sky == without.sky  # intrinsic


def test_gains_corrupt_as_they_say(make_parameters):
    parameters = make_parameters(phase_error=1.0, amplitude_error=0.2)
    clean = make_window(1, make_field(make_parameters()))
    field = make_field(parameters)
    block, gain = make_window(1, field), draw_gains(field, 1)
    for row in range(block.n_rows):
        g = gain[row // 21]
        factor = g[block.antenna1[row]] * np.conj(g[block.antenna2[row]])
        np.testing.assert_allclose(block.vis[row], clean.vis[row] * factor, atol=2e-5)


def test_draws_belong_to_the_window_and_not_to_the_order(make_parameters):
    parameters = make_parameters(phase_error=1.0, noise=0.5)
    field, again = make_field(parameters), make_field(parameters)
    forwards = [make_window(w, field).vis for w in (0, 1, 2)]
    backwards = [make_window(w, again).vis for w in (2, 1, 0)][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    gains = [draw_gains(field, w) for w in (0, 1, 2)]
    assert not np.allclose(gains[0], gains[1])
    other_seed = make_field(make_parameters(phase_error=1.0, seed=2))
    assert not np.allclose(draw_gains(other_seed, 0), gains[0])


def test_phases_and_amplitudes_have_the_spread_asked_for(make_parameters):
    parameters = make_parameters(phase_error=0.3, amplitude_error=0.1, array="ska1-low")
    field = make_field(parameters.model_copy(update={"ntimes": 20}))
    gain = draw_gains(field, 0)
    assert gain.shape == (20, len(field.stations))
    assert np.angle(gain).std() == pytest.approx(0.3, rel=0.05)
    assert np.abs(gain).std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(gain).mean() == pytest.approx(1, abs=0.01)


def test_noise_is_that_of_stokes_i(make_parameters):
    noise_jy = 2.5
    parameters = make_parameters(noise=noise_jy, sky="generated", flux_limit=1e5, array="ska1-low")
    field = make_field(parameters)
    assert len(field.sky) == 0
    block = make_window(0, field)
    vis, weight = stokes_i(block)
    assert vis.real.std() == pytest.approx(noise_jy, rel=0.03)
    assert vis.imag.std() == pytest.approx(noise_jy, rel=0.03)
    np.testing.assert_allclose(weight, noise_jy**-2, rtol=1e-6)
    first, second = block.vis[:, 0, 0], block.vis[:, 0, 1]
    assert abs(np.vdot(first, second)) / np.vdot(first, first).real < 0.02  # independent hands


def run(parameters, folder):
    folder.mkdir(exist_ok=True)
    return run_simulation(parameters, folder, SerialExecutor(), Progress(show_bar=False))


def test_the_truth_is_read_back(make_parameters, tmp_path):
    parameters = make_parameters(phase_error=0.8, primary_beam=True)
    result = run(parameters, tmp_path / "vis")
    assert [path.name for path in result.sets] == [
        f"ska_pipeline_simulation_vislist_{w}.ms" for w in range(3)
    ]
    sky = read_catalogue(result.files["sky"], ref_freq_hz=REF_HZ)
    np.testing.assert_allclose(sky.ra_rad, result.sky.ra_rad, rtol=1e-12)
    np.testing.assert_allclose(sky.dec_rad, result.sky.dec_rad, rtol=1e-12)
    freq_hz = parameters.freq_hz
    np.testing.assert_allclose(sky.flux_jy(freq_hz), result.sky.flux_jy(freq_hz), rtol=1e-9)
    apparent = read_catalogue(result.files["apparent_sky"], ref_freq_hz=REF_HZ)
    field = make_field(parameters)
    np.testing.assert_allclose(apparent.flux_jy(freq_hz[1])[:, 0], field.apparent_jy[:, 1])
    np.testing.assert_allclose(result.apparent.flux_jy(freq_hz), field.apparent_jy)


def test_the_true_gains_are_those_of_the_data_column(make_parameters, tmp_path):
    clean = run(make_parameters(), tmp_path / "clean")
    corrupt = run(make_parameters(phase_error=0.8, amplitude_error=0.1), tmp_path / "corrupt")
    gains = read_gain_table(corrupt.files["true_gains"])
    assert gains.gain.shape == (2, 7, 3, 1)
    for window, paths in enumerate(zip(clean.sets, corrupt.sets, strict=True)):
        columns = []
        for path in paths:
            with table(str(path), ack=False) as main:
                columns.append(main.getcol("DATA"))
                first, second = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
                times = main.getcol("TIME")
        t = np.searchsorted(gains.time_mjd_s, times - 1e-3)
        g = gains.gain[:, :, window, 0]
        factor = (g[t, first] * g[t, second].conj())[:, np.newaxis, np.newaxis]
        np.testing.assert_allclose(columns[1], columns[0] * factor, atol=2e-5)


def test_an_empty_sky_is_simulated(make_parameters, tmp_path):
    parameters = make_parameters(sky="generated", flux_limit=1e5, phase_error=1.0)
    result = run(parameters, tmp_path / "vis")
    assert len(result.sky) == 0
    with table(str(result.sets[0]), ack=False) as main:
        assert not main.getcol("DATA").any()
        assert not main.getcol("FLAG").any()
    assert len(read_catalogue(result.files["sky"], ref_freq_hz=REF_HZ)) == 0


def test_a_catalogue_of_the_other_half_of_the_sky_is_refused(make_parameters, catalogue):
    turned = make_parameters().model_copy(update={"ra": 180.0, "dec": 60.0})
    with pytest.raises(DataError, match=r"no source above .* move the phase centre"):
        make_field(turned)
    with pytest.raises(DataError, match=r"flux_limit = 100 Jy"):
        make_field(make_parameters(flux_limit=100.0))


def test_a_real_sky_is_simulated(make_parameters, shared_data):
    path = shared_data / "mwa-eor0-100-sources.yaml"
    field = make_field(make_parameters(sky=str(path), flux_limit=0.01))
    assert len(field.sky) == 106
    points = np.array([component.bmaj_rad == 0 for component in field.sky.components])
    block = make_window(1, replace(field, apparent_jy=field.apparent_jy * points[:, np.newaxis]))
    expected = np.zeros(block.n_rows, dtype=complex)
    for component in np.array(field.sky.components, dtype=object)[points]:
        lmn = direction_cosines(np.rad2deg(component.ra_rad), np.rad2deg(component.dec_rad))
        expected += component.spectrum.flux_jy(1e8) * wave(block, 1e8, *lmn)
    np.testing.assert_allclose(block.vis[:, 0, 0], expected, atol=1e-6 * np.abs(expected).max())
