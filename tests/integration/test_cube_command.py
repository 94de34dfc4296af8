"""`batch-imaging cube` from end to end: files in, files and exit codes out."""

import csv
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from distributed import LocalCluster

from batch_imaging.cli import main
from benchmarks.cost import measure

pytestmark = pytest.mark.integration

N_CHAN, SIDE = 24, 64


@pytest.fixture
def cube(tmp_path) -> Path:
    """A source with a line, whose beam shrinks with frequency; one channel is blank."""
    fwhm = np.linspace(5.0, 4.0, N_CHAN)
    y, x = np.mgrid[:SIDE, :SIDE]
    shape = np.exp(-4 * np.log(2) * ((x - 30) ** 2 + (y - 20) ** 2) / fwhm[:, None, None] ** 2)
    line = 1 + 5 * np.exp(-0.5 * ((np.arange(N_CHAN) - 12) / 2) ** 2)
    pixels = np.random.default_rng(6).normal(0, 0.01, shape.shape) + line[:, None, None] * shape
    pixels[5] = np.nan
    header = fits.Header({"BUNIT": "Jy/beam", "RESTFRQ": 1.42e9, "SPECSYS": "TOPOCENT"})
    axes = (("RA---SIN", 40.0, -0.01), ("DEC--SIN", -30.0, 0.01), ("FREQ", 1.4e9, 1e5))
    for i, (ctype, value, step) in enumerate(axes, 1):
        header.update({f"CTYPE{i}": ctype, f"CRVAL{i}": value, f"CDELT{i}": step, f"CRPIX{i}": 1.0})
    size = 36 * fwhm
    columns = (("BMAJ", "arcsec", size), ("BMIN", "arcsec", size), ("BPA", "deg", 0 * size))
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, "1E", unit, array=values) for name, unit, values in columns],
        name="BEAMS",
    )
    path = tmp_path / "cube.fits"
    primary = fits.PrimaryHDU(pixels[np.newaxis].astype(np.float32), header)
    fits.HDUList([primary, table]).writeto(path)
    return path


def cube_command(*arguments: object) -> int:
    return main(["cube", *map(str, arguments), "--quiet"])


def statistics(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert cube_command("stats", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_from_cube_to_line(cube, tmp_path, capsys):
    out = tmp_path / "out"
    by_way = ("--save-to-tmp-dir", tmp_path)
    assert (
        cube_command("rechunk", cube, "-o", out / "cube.zarr", "--chunk", "0,32,32", *by_way) == 0
    )
    beam = ("--beam", "200arcsec", "--spectral", 2, "--chunk", "4,0,0")
    assert cube_command("smooth", out / "cube.zarr", "-o", out / "smooth.fits", *beam, *by_way) == 0
    wanted = ("--moments", "0,peak", "--sigma", 5, "--png")
    assert cube_command("moments", out / "smooth.fits", "-o", out / "line", *wanted) == 0
    position = ("--pixel", "30,20", "--aperture", 2, "--png")
    assert cube_command("extract", out / "smooth.fits", "-o", out / "s.csv", *position) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "cube.zarr",
        "line.moment0.fits",
        "line.moment0.png",
        "line.peak.fits",
        "line.peak.png",
        "s.csv",
        "s.png",
        "smooth.fits",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.fits", "out"]
    peak = fits.getdata(out / "line.peak.fits")
    assert np.unravel_index(np.nanargmax(peak), peak.shape) == (20, 30)
    with (out / "s.csv").open() as stream:
        *_, flux = zip(*list(csv.reader(stream))[1:], strict=True)
    assert float(flux[12]) == pytest.approx(5.3, rel=0.1)
    assert np.isnan(float(flux[5]))
    smooth = statistics(capsys, out / "smooth.fits")
    assert smooth["channels"][5]["n"] == 0
    assert smooth["channels"][0]["bmaj_arcsec"] == pytest.approx(200)


def test_parts_clipping_masks_and_own_functions(cube, tmp_path, capsys):
    part = tmp_path / "part.zarr"
    selection = ("--velocity", "3700:4200", "--sky-box", "39.65 -29.8,0.2")
    assert cube_command("extract", cube, "-o", part, *selection) == 0
    found = statistics(capsys, part)
    assert 1 < len(found["channels"]) < N_CHAN
    assert found["channels"][0]["bmaj_arcsec"] < 36 * 5
    assert cube_command("sigma-clip", part, "-o", tmp_path / "mask.fits", "--mask") == 0
    module = tmp_path / "mine.py"
    module.write_text("def double(chunk):\n    return 2 * chunk\n")
    doubled = tmp_path / "doubled.fits"
    assert cube_command("apply", part, f"{module}:double", "-o", doubled, "--over", "planes") == 0
    twice = statistics(capsys, doubled)["whole"]
    assert twice["max"] == pytest.approx(2 * found["whole"]["max"])


def test_a_casa_image_is_the_same_cube(cube, tmp_path, capsys):
    images = pytest.importorskip("casacore.images")
    assert cube_command("rechunk", cube, "-o", tmp_path / "own.fits") == 0
    images.image(str(tmp_path / "own.fits")).saveas(str(tmp_path / "cube.image"))
    read_as = ("--target-chunk-size", "64KB", "--scheduler", "synchronous")
    casa = statistics(capsys, tmp_path / "cube.image", *read_as)
    own = statistics(capsys, cube)
    for there, here in zip(casa["channels"], own["channels"], strict=True):
        assert there["n"] == here["n"]
        known = [key for key, value in here.items() if value is not None]
        assert [there[key] for key in known] == pytest.approx([here[key] for key in known])


def test_a_cluster_computes_the_same(cube, tmp_path, capsys):
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        where = ("--scheduler", cluster.scheduler_address, "--chunk", "5,0,0")
        there = statistics(capsys, cube, *where)
    here = statistics(capsys, cube, "--scheduler", "synchronous")
    assert there["channels"][3] == pytest.approx(here["channels"][3])


def test_errors_are_one_line_and_a_code(cube, tmp_path, capsys):
    taken = tmp_path / "taken.fits"
    taken.write_text("mine")
    absent = ("--save-to-tmp-dir", tmp_path / "absent")
    cases = (
        (2, "--overwrite", "rechunk", cube, "-o", taken),
        (2, "a folder to write in", "apply", cube, f"{__file__}:cube_command", "-o", "x", *absent),
        (2, "--target-chunk-size", "stats", cube, "--target-chunk-size", "lots"),
        (2, "--scheduler", "stats", cube, "--scheduler", "magic"),
        (2, "only one of", "extract", cube, "-o", "x", "--channels", "1:2", "--freq", "1:2"),
        (2, "choose from", "moments", cube, "-o", tmp_path / "m", "--moments", "7"),
        (3, "no such cube", "stats", tmp_path / "none.fits"),
        (3, "not within 0:24", "extract", cube, "-o", tmp_path / "x", "--channels", "9:99"),
        (6, "--memory", "stats", cube, "--memory", "1MB"),
    )
    for code, message, *arguments in cases:
        assert cube_command(*arguments) == code
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1
        assert message in complaint
    assert taken.read_text() == "mine"
    assert not list(tmp_path.glob("*.partial"))


def test_memory_stays_within_the_limit(tmp_path):
    shape, limit_bytes = (160, 1000, 1000), 620e6
    path = tmp_path / "large.fits"
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 3)])
    axes = (("RA---SIN", 40.0, -0.01), ("DEC--SIN", -30.0, 0.01), ("FREQ", 1.4e9, 1e5))
    for i, (length, (ctype, value, step)) in enumerate(zip(shape[::-1], axes, strict=True), 1):
        header.update({f"NAXIS{i}": length, f"CTYPE{i}": ctype, f"CRVAL{i}": value})
        header.update({f"CDELT{i}": step, f"CRPIX{i}": 1.0})
    header.tofile(path)
    os.truncate(path, path.stat().st_size + -(-4 * np.prod(shape) // 2880) * 2880)
    arguments = ("cube", "stats", str(path), "--quiet", "--json", "--memory", f"{limit_bytes:.0f}")
    cost = measure(["-m", "batch_imaging", *arguments])
    assert cost.peak_bytes < limit_bytes < path.stat().st_size


def test_real_cubes_with_planes_that_failed(shared_data, tmp_path, capsys):
    with zipfile.ZipFile(shared_data / "askap-emu-cubes.zip") as archive:
        name = sorted(archive.namelist())[0]
        archive.extract(name, tmp_path)
    limits = ("--common-beam", "--beam-limit", "20arcsec")
    assert cube_command("smooth", tmp_path / name, "-o", tmp_path / "same.fits", *limits) == 0
    found = statistics(capsys, tmp_path / "same.fits")["channels"]
    assert [channel["channel"] for channel in found if not channel["n"]] == [10, 11, 18]
    assert all(channel["bmaj_arcsec"] == pytest.approx(14.6, abs=0.05) for channel in found)
