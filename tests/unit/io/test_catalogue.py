"""Tables and source lists as people have them, against what they say."""

import numpy as np
import pytest
import yaml
from astropy import units as u
from astropy.table import MaskedColumn, Table

from batch_imaging.errors import DataError
from batch_imaging.io.catalogue import read_catalogue, write_catalogue
from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel, TabulatedSpectrum

ARCSEC = np.deg2rad(1 / 3600)
FREQ_HZ = 100e6


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="sources.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def read(path, flux_limit_jy=0.0):
    return read_catalogue(path, flux_limit_jy=flux_limit_jy, ref_freq_hz=FREQ_HZ)


def gaussian_image(bmaj, bmin, bpa, size=256):
    """A Gaussian on a grid of pixels, east to the left, by the definition of its widths."""
    north, west = np.mgrid[:size, :size] - size // 2
    along = north * np.cos(bpa) - west * np.sin(bpa)
    across = -west * np.cos(bpa) - north * np.sin(bpa)
    return np.exp(-4 * np.log(2) * ((along / bmaj) ** 2 + (across / bmin) ** 2))


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "name,ra,dec,flux,alpha,ref_freq\nA,10.5,-30,2,-0.7,150e6\nB,350,-10.25,1,-1,150e6\n",
        "# drawn by hand\nSource,RA_deg,Dec_deg,Flux_Jy,Spectral_Index,Ref_Freq_MHz\n"
        "A,10.5,-30,2,-0.7,150\nB,350,-10.25,1,-1,150\n",
        "Name,RAJ2000,DEJ2000,S_mJy,alpha,freq_hz\n"
        "A,0:42:00,-30:00:00,2000,-0.7,150000000\nB,23:20:00,-10:15:00,1e3,-1,150000000\n",
    ],
)
def test_plain_tables(write, text):
    sky = read(write(text))
    assert [c.name for c in sky.components] == ["A", "B"]
    np.testing.assert_allclose(np.rad2deg(sky.ra_rad), [10.5, 350], rtol=1e-14)
    np.testing.assert_allclose(np.rad2deg(sky.dec_rad), [-30, -10.25], rtol=1e-14)
    np.testing.assert_allclose(sky.flux_jy(150e6)[:, 0], [2, 1], rtol=1e-14)
    np.testing.assert_allclose(sky.flux_jy(75e6)[:, 0], [2 * 2**0.7, 2], rtol=1e-14)


def test_defaults_of_plain_tables(write):
    (source,) = read(write("ra dec flux\n83.633 22.0145 5\n", "sources.txt")).components
    assert source.name == "J053431+220052"
    assert source.spectrum == PowerLaw(5.0, FREQ_HZ, -0.8)
    assert source.bmaj_rad == source.bmin_rad == source.bpa_rad == 0


def test_sizes_of_plain_tables(write):
    sky = read(write("ra,dec,flux,bmaj,bmin_arcmin,pa\n1,2,3,90,0.5,30\n1,2,3,0,0,0\n1,2,3,,,\n"))
    gaussian, *points = sky.components
    shape = gaussian.bmaj_rad, gaussian.bmin_rad, gaussian.bpa_rad
    assert shape == pytest.approx((90 * ARCSEC, 30 * ARCSEC, np.pi / 6))
    assert all(point.bmaj_rad == point.bmin_rad == point.bpa_rad == 0 for point in points)


@pytest.mark.parametrize("suffix", ["fits", "vot", "ecsv"])
def test_units_of_columns_are_honoured(tmp_path, suffix):
    path = tmp_path / f"sources.{suffix}"
    table = Table({"RA": [0.5] * u.rad, "Dec": [-1800.0] * u.arcmin, "flux": [2500.0] * u.mJy})
    table["ref_freq"] = [0.15] * u.GHz
    table.write(path, format={"vot": "votable", "ecsv": "ascii.ecsv"}.get(suffix, suffix))
    (source,) = read(path).components
    assert source.ra_rad == pytest.approx(0.5)
    assert np.rad2deg(source.dec_rad) == pytest.approx(-30)
    assert source.spectrum == PowerLaw(2.5, 150e6, -0.8)


def gleam(*, vizier):
    names = {
        "GLEAM": "Name", "RAJ2000": "RAJ2000", "DEJ2000": "DEJ2000", "alpha": "alpha",
        "Fintwide": "int_flux_wide", "awide": "a_wide", "bwide": "b_wide", "pawide": "pa_wide",
        "psfawide": "psf_a_wide", "psfbwide": "psf_b_wide", "psfPAwide": "psf_pa_wide",
    }  # fmt: skip
    table = Table(
        {
            "GLEAM": ["J000004-100000", "J000102+000000"],
            "RAJ2000": [0.02, 0.26] * u.deg,
            "DEJ2000": [-10.0, 0.0] * u.deg,
            "alpha": MaskedColumn([-0.9, 0.0], mask=[False, True]),
            "Fintwide": [3.0, 0.4] * u.Jy,
            "awide": [200.0, 134.0] * u.arcsec,
            "bwide": [150.0, 130.0] * u.arcsec,
            "pawide": [40.0, 10.0] * u.deg,
            "psfawide": [135.0, 135.0] * u.arcsec,
            "psfbwide": [130.0, 130.0] * u.arcsec,
            "psfPAwide": [-70.0, 10.0] * u.deg,
        }
    )
    if not vizier:
        table.rename_columns(list(names), list(names.values()))
    return table


@pytest.mark.parametrize("vizier", [True, False])
@pytest.mark.parametrize("suffix", ["fits", "vot"])
def test_gleam_names(tmp_path, vizier, suffix):
    path = tmp_path / f"gleam.{suffix}"
    gleam(vizier=vizier).write(path, format={"vot": "votable"}.get(suffix, suffix))
    extended, point = read(path).components
    assert extended.name == "J000004-100000"
    assert extended.spectrum == PowerLaw(3.0, 200e6, -0.9)
    assert point.spectrum == PowerLaw(0.4, 200e6, -0.8)
    assert point.bmaj_rad == 0

    # Convolved with the psf again, it must look as it was seen.
    true = gaussian_image(
        extended.bmaj_rad / ARCSEC / 20, extended.bmin_rad / ARCSEC / 20, extended.bpa_rad
    )
    psf = gaussian_image(135 / 20, 130 / 20, np.deg2rad(-70))
    seen = np.fft.fftshift(np.fft.ifft2(np.fft.fft2(true) * np.fft.fft2(psf)).real)
    expected = gaussian_image(200 / 20, 150 / 20, np.deg2rad(40))
    np.testing.assert_allclose(seen / seen.max(), expected, atol=1e-6)


def test_gleam_sizes_without_the_psf_are_not_taken_for_true_ones(tmp_path):
    path = tmp_path / "gleam.fits"
    table = gleam(vizier=True)
    table.remove_columns(["psfawide", "psfbwide", "psfPAwide"])
    table.write(path)
    assert all(c.bmaj_rad == 0 for c in read(path).components)


def test_gleam_band_nearest_to_the_frequency(write):
    text = "RAJ2000,DEJ2000,Fint076,Fint107,Fint151\n1,2,9,7,5\n"
    (source,) = read(write(text)).components
    assert source.spectrum == PowerLaw(7.0, 107e6, -0.8)


def test_flux_limit_applies_at_the_frequency_given(write):
    """1 Jy at 200 MHz with index −1 is 2 Jy at 100 MHz."""
    path = write("name,ra,dec,flux,alpha,freq_mhz\nA,1,2,1,-1,200\nB,1,2,1,0,200\nC,1,2,-1,0,200\n")
    assert [c.name for c in read(path, 1.5).components] == ["A"]
    assert [c.name for c in read(path, 2.0).components] == ["A"]
    assert len(read(path, 2.1)) == 0
    assert len(read(path, 0.0)) == 2


def test_incomplete_rows_are_counted_and_left_out(write):
    path = write("name,ra,dec,flux\nA,1,2,3\nB,,2,3\nC,1,nan,3\nD,1,2,\n")
    with pytest.warns(UserWarning, match=r"sources\.csv: 3 of 4 rows have no position or flux"):
        assert [c.name for c in read(path).components] == ["A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ra,flux\n1,2\n", r"no column for declination: looked for dec, .*has ra, flux"),
        ("dec,flux\n1,2\n", "no column for right ascension: looked for ra, raj2000"),
        ("ra,dec,peak\n1,2,3\n", "no column for flux density: .*Fint151.*has ra, dec, peak"),
        ("ra,dec,flux\n1,95,3\n", "row 1: a declination of 95° is beyond the pole"),
        ("ra,dec,flux\n1,2,bright\n", "column flux: cannot be read in Jy"),
        ("ra,dec,flux\nhere,2,1\n", "column ra: cannot be read in rad"),
        ("ra,dec,flux\n1,2\n1,2,3,4\n", r"cannot be read as a table \(ascii\.csv\)"),
    ],
)
def test_unusable_tables_are_refused(write, text, message):
    with pytest.raises(DataError, match=message):
        read(write(text))


def test_a_unit_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "sources.ecsv"
    Table({"ra": [1.0] * u.deg, "dec": [1.0] * u.deg, "flux": [1.0] * u.K}).write(path)
    with pytest.raises(DataError, match="column flux: cannot be read in Jy"):
        read(path)


@pytest.mark.parametrize("name", ["absent.csv", "absent.fits", "absent.vot", "absent.yaml"])
def test_absent_files_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["broken.fits", "broken.vot", "broken.yaml"])
def test_broken_files_are_refused(write, name):
    with pytest.raises(DataError, match=f"{name}.* cannot be read"):
        read(write("{ this is neither", name))


# The table of truth


def test_truth_is_read_back(tmp_path):
    sky = SkyModel(
        (
            SkyComponent("SIMJ000000-300000", 6.1, -0.5, PowerLaw(3.25, 150e6, -0.77)),
            SkyComponent("a, b", 0.1, 1.2, PowerLaw(0.1, 88e6, 0.3, -0.2), 3e-4, 1e-4, 0.7),
        )
    )
    path = tmp_path / "truth.csv"
    write_catalogue(path, sky, FREQ_HZ)
    again = read(path)
    assert [c.name for c in again.components] == [c.name for c in sky.components]
    np.testing.assert_allclose(again.ra_rad, sky.ra_rad, rtol=1e-15)
    np.testing.assert_allclose(again.dec_rad, sky.dec_rad, rtol=1e-15)
    freqs_hz = np.array([50e6, 100e6, 350e6])
    np.testing.assert_allclose(again.flux_jy(freqs_hz), sky.flux_jy(freqs_hz), rtol=1e-13)
    for ours, read_back in zip(sky.components, again.components, strict=True):
        shape = read_back.bmaj_rad, read_back.bmin_rad, read_back.bpa_rad
        assert shape == pytest.approx((ours.bmaj_rad, ours.bmin_rad, ours.bpa_rad), rel=1e-14)
    assert [entry.name for entry in tmp_path.iterdir()] == ["truth.csv"]


def test_truth_keeps_value_and_slope_of_other_spectra(tmp_path):
    table = TabulatedSpectrum((80e6, 120e6, 200e6), (4.0, 3.0, 1.0))
    path = tmp_path / "truth.csv"
    write_catalogue(path, SkyModel((SkyComponent("T", 1.0, 0.0, table),)), FREQ_HZ)
    nearby_hz = [95e6, 100e6, 105e6]
    np.testing.assert_allclose(read(path).flux_jy(nearby_hz)[0], table.flux_jy(nearby_hz))


def test_an_empty_truth_is_read_back(tmp_path):
    path = tmp_path / "truth.csv"
    write_catalogue(path, SkyModel(()), FREQ_HZ)
    assert len(read(path)) == 0


# YAML source lists


def test_the_real_source_list(shared_data):
    path = shared_data / "mwa-eor0-100-sources.yaml"
    listed = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    entries = [entry for components in listed.values() for entry in components]
    sky = read(path)
    assert len(listed) == 100
    assert len(sky) == len(entries) == 106
    assert len({c.name for c in sky.components}) == 106
    assert sum(c.bmaj_rad > 0 for c in sky.components) == 16
    for component, entry in zip(sky.components, entries, strict=True):
        assert np.rad2deg(component.ra_rad) == pytest.approx(entry["ra"], abs=1e-12)
        assert np.rad2deg(component.dec_rad) == pytest.approx(entry["dec"], abs=1e-12)
        points = entry["flux_type"]["list"]
        np.testing.assert_allclose(
            component.spectrum.flux_jy([point["freq"] for point in points]),
            [point["i"] for point in points],
            rtol=1e-13,
        )
        if entry["comp_type"] != "point":
            gaussian = entry["comp_type"]["gaussian"]
            assert component.bmaj_rad == pytest.approx(gaussian["maj"] * ARCSEC)
            assert component.bmin_rad == pytest.approx(gaussian["min"] * ARCSEC)
            assert component.bpa_rad == pytest.approx(np.deg2rad(gaussian["pa"]))


def source_list(flux_type, comp_type="point"):
    return f"S:\n- {{ra: 10.0, dec: -27.0, comp_type: {comp_type}, flux_type: {flux_type}}}\n"


@pytest.mark.parametrize(
    ("flux_type", "spectrum"),
    [
        ("{power_law: {si: -0.7, fd: {freq: 15e7, i: 2, q: 0}}}", PowerLaw(2.0, 150e6, -0.7)),
        (
            "{curved_power_law: {si: -0.7, fd: {freq: 150000000.0, i: 2.0}, q: 0.2}}",
            PowerLaw(2.0, 150e6, -0.7, 0.2),
        ),
        (
            "{list: [{freq: 200e6, i: 1.0}, {freq: 100e6, i: 3.0}]}",
            TabulatedSpectrum((100e6, 200e6), (3.0, 1.0)),
        ),
        ("{list: [{freq: 200e6, i: 1.0}]}", PowerLaw(1.0, 200e6, -0.8)),
    ],
)
def test_spectra_of_source_lists(write, flux_type, spectrum):
    (source,) = read(write(source_list(flux_type), "list.yaml")).components
    assert source.name == "S"
    assert source.spectrum == spectrum


def test_flux_limit_counts_the_components_of_a_source_together(write):
    component = "{{ra: 1, dec: 2, comp_type: point, flux_type: {{list: [{{freq: 1e8, i: {}}}]}}}}"
    bright, faint = component.format(0.8), component.format(0.4)
    path = write(f"double: [{bright}, {faint}]\nsingle: [{bright}]\n", "list.yml")
    assert [c.name for c in read(path, 1.0).components] == ["double_1", "double_2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            source_list("{list: [{freq: 1e8, i: 1}]}", "{shapelet: {maj: 1}}"),
            "list.yaml, source S, component 1: comp_type shapelet cannot be used",
        ),
        (source_list("{list: []}"), "flux_type list cannot be used: give list"),
        (source_list("{list: [{freq: 1e8, i: 1}, {freq: 1e8, i: 2}]}"), "not positive and diff"),
        (source_list("{power_law: {si: -0.7}}"), "flux_type power_law cannot be used"),
        (source_list("{list: [{freq: fast, i: 1}]}"), "could not convert string to float: 'fast'"),
        ("S:\n- {ra: 1, comp_type: point, flux_type: {}}\n", "component 1: dec is missing"),
        ("S: {ra: 1}\n", "is no source list"),
        ("- 1\n", "is no source list"),
        ("", "is no source list"),
    ],
)
def test_unusable_source_lists_are_refused(write, text, message):
    with pytest.raises(DataError, match=message):
        read(write(text, "list.yaml"))
