"""Cubes read and written: FITS of all sorts, zarr, and what is no cube."""

import gzip

import numpy as np
import pytest
import xarray
from astropy.io import fits

from batch_imaging.errors import DataError, ParameterError, ResourceError
from batch_imaging.pipelines.cubes import writing
from batch_imaging.pipelines.cubes.opening import beams_deg, open_cube, pixels
from batch_imaging.pipelines.cubes.rechunking import rechunk_cube
from batch_imaging.pipelines.cubes.writing import write_cube

BEAMS = np.array([[60.0 - k, 30.0, 10.0] for k in range(7)])


@pytest.mark.parametrize("chunk", [None, (2, 30, 40), (7, 11, 13)])
def test_fits_and_zarr_hold_the_same(noise, write_fits, schedule, tmp_path, chunk):
    path = write_fits(noise, BEAMS, OBJECT="M 81")
    there, back = tmp_path / "there.zarr", tmp_path / "back.fits"
    write_cube(open_cube(path, schedule(chunk=chunk)), there, schedule(), "there")
    write_cube(open_cube(there, schedule(chunk=chunk)), back, schedule(workers=2), "back")
    for copy in (there, back):
        cube = open_cube(copy, schedule())
        np.testing.assert_array_equal(pixels(cube).compute(), noise)
        np.testing.assert_allclose(3600 * beams_deg(cube)[:, :2], BEAMS[:, :2], rtol=1e-6)
        assert cube.header["OBJECT"] == "M 81"
        assert cube.spectral_axis[3].to_value("Hz") == 1.42e9 - 3 * 50e3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.fits", "cube.fits", "there.zarr"]
    with fits.open(back) as hdus:
        hdus.verify("exception")
        assert hdus[0].shape == (1, *noise.shape)
        assert hdus["BEAMS"].header["TUNIT1"] == "arcsec"


def test_xarray_opens_the_zarr_with_its_coordinates(noise, write_fits, schedule, tmp_path):
    rechunk_cube(write_fits(noise, BEAMS), tmp_path / "z.zarr", schedule(), "0,16,16")
    with xarray.open_zarr(tmp_path / "z.zarr", consolidated=True) as cube:
        sky = cube["SKY"]
        assert sky.dims == ("time", "frequency", "polarization", "l", "m")
        assert sky.encoding["chunks"] == (1, 7, 1, 16, 16)
        np.testing.assert_array_equal(sky[0, :, 0].to_numpy().swapaxes(1, 2), noise)
        beam = cube["BEAM_FIT_PARAMS_SKY"].sel(beam_params_label="minor")[0, 0, 0]
        assert float(beam) == pytest.approx(np.deg2rad(30 / 3600))
        assert float(cube["l"][1]) == pytest.approx(-np.deg2rad(1 / 360))


def test_a_beam_that_could_not_be_fitted_is_none(noise, opened):
    beams = BEAMS.copy()
    beams[3, :2] = np.finfo(np.float32).tiny
    found = beams_deg(opened(noise, beams))
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()


def test_integers_are_scaled_and_blanked(opened):
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    cube = opened(stored, BLANK=5)
    values = pixels(cube).compute()
    assert np.isnan(values[0, 1, 1])
    assert values[1, 2, 3] == 23


def test_axes_in_any_order_and_one_stokes_of_two(noise, write_fits, schedule, tmp_path):
    path = write_fits(noise)
    with fits.open(path) as hdus:
        header = hdus[0].header
        for key in ("CTYPE", "CRVAL", "CDELT", "CUNIT"):
            header[f"{key}4"] = header[f"{key}3"]
        header.update(CTYPE3="STOKES", CRVAL3=1.0, CDELT3=1.0, CUNIT3="", CRPIX3=1.0, CRPIX4=1.0)
        both = np.stack([noise, -noise], axis=1)
        fits.PrimaryHDU(both, header).writeto(tmp_path / "iq.fits")
    q = open_cube(tmp_path / "iq.fits", schedule(), stokes="Q")
    np.testing.assert_array_equal(pixels(q).compute(), -noise)
    with pytest.raises(DataError, match="no Stokes 'V': choose --stokes from I, Q"):
        open_cube(tmp_path / "iq.fits", schedule(), stokes="V")


def test_what_is_no_cube_is_said_in_one_line(noise, write_fits, schedule, tmp_path):
    def complaint(path):
        with pytest.raises(DataError) as caught:
            open_cube(path, schedule())
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    whole = write_fits(noise)
    assert "no such cube" in complaint(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no cube at all")
    assert "not a readable FITS" in complaint(tmp_path / "text.fits")
    cut = tmp_path / "cut.fits"
    cut.write_bytes(whole.read_bytes()[:20000])
    assert "ends early" in complaint(cut)
    flat = tmp_path / "flat.fits"
    header = fits.Header({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"})
    fits.PrimaryHDU(noise[0], header).writeto(flat)
    assert "no spectral axis" in complaint(flat)
    packed = tmp_path / "cube.fits.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    assert "unpack" in complaint(packed)
    (tmp_path / "folder").mkdir()
    assert "neither" in complaint(tmp_path / "folder")
    assert "7 channels" in complaint(write_fits(noise, BEAMS[:5], "few.fits"))


def test_an_output_that_exists_is_kept(noise, opened, schedule, tmp_path):
    output = tmp_path / "out.zarr"
    output.mkdir()
    with pytest.raises(ParameterError, match="--overwrite"):
        write_cube(opened(noise), output, schedule(), "copy")
    write_cube(opened(noise), output, schedule(), "copy", overwrite=True)
    assert (output / "zarr.json").exists()


def test_nothing_is_left_of_an_output_that_failed(noise, opened, schedule, tmp_path, monkeypatch):
    output = tmp_path / "out.fits"
    monkeypatch.setattr(writing, "beams_deg", lambda cube: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_cube(opened(noise), output, schedule(), "copy")
    assert not list(tmp_path.glob("out*"))


def test_a_disk_that_is_too_small(noise, opened, schedule, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"33\.6 kB.*1 kB are free"):
        write_cube(opened(noise), tmp_path / "out.fits", schedule(), "copy")
