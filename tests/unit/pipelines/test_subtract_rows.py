"""Continuum subtraction of Measurement Sets: every source of models, columns, copies, windows."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from casacore.tables import makecoldesc, table

from batch_imaging.errors import DataError, ParameterError, ProductError, ResourceError
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.catalogue import write_catalogue
from batch_imaging.io.measurement_set import (
    describe_structure,
    read_measurement_set,
    write_measurement_set,
)
from batch_imaging.io.source_list import write_source_list
from batch_imaging.kernels import prediction
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel
from batch_imaging.model.spectral_axis import (
    doppler_factor,
    parse_ranges,
    velocity_from_freq,
)
from batch_imaging.pipelines import subtraction as module
from batch_imaging.pipelines.model_source import PlaneSource, SkySource
from batch_imaging.pipelines.subtraction import (
    LineFree,
    Subtraction,
    plan_subtraction,
    run_subtraction,
)

CENTRE = Direction.from_degrees(10.0, -35.0)  # of make_block
SOURCES = np.array([(0.031, -0.012, 3.0), (-0.044, 0.027, 2.0), (0.008, 0.051, 1.0)])  # l, m, flux
FREQ_HZ = 1e8 + 2e4 * np.arange(24)
LINE = 0.5 * np.exp(-0.5 * ((np.arange(24) - 12) / 1.5) ** 2)
FIT = Subtraction(("fit",), fit_order=2, line_free=LineFree(parse_ranges("0~5,19~23")))
GEOMETRY = ImageGeometry(64, 4e-3, CENTRE)
PIXELS = ((40, 20, 3.0), (22, 47, 2.0))  # row, column, flux


def run(paths, subtraction, **more):
    plans = plan_subtraction(paths, subtraction, **more)
    return run_subtraction(plans, subtraction, SerialExecutor(), Progress(show_bar=False))


@pytest.fixture
def block(make_block):
    """Flat continuum with a line at the phase centre in XX and YY."""
    made = make_block(FREQ_HZ, sources=SOURCES)
    return made.with_vis((made.vis + LINE[:, np.newaxis]).astype(np.complex64))


@pytest.fixture
def path(tmp_path, block):
    write_measurement_set(tmp_path / "a.ms", block)
    return tmp_path / "a.ms"


@pytest.fixture
def sky():
    ra_rad, dec_rad = radec_from_lm(SOURCES[:, 0], SOURCES[:, 1], CENTRE)
    return SkyModel(
        tuple(
            SkyComponent(f"s{k}", float(ra_rad[k]), float(dec_rad[k]), PowerLaw(flux_jy, 1e8))
            for k, (_, _, flux_jy) in enumerate(SOURCES)
        )
    )


def assert_only_the_line(path, column, atol=1e-5):
    vis = read_measurement_set(path, column=column).vis
    np.testing.assert_allclose(vis, np.broadcast_to(LINE[:, np.newaxis], vis.shape), atol=atol)


@pytest.mark.parametrize("kind", ["list", "catalogue", "memory"])
@pytest.mark.parametrize("way", ["product", "degrid", None])
def test_components(path, sky, tmp_path, kind, way):
    model = tmp_path / ("sky.txt" if kind == "list" else "sky.csv")
    if kind == "list":
        write_source_list(model, sky)
    elif kind == "catalogue":
        write_catalogue(model, sky, 1e8)
    else:
        model = SkySource(sky)
    run([path], Subtraction(("model",), model, way=way))
    assert_only_the_line(path, "LINE_DATA")


def test_a_transform_that_does_not_fit_is_refused(path, sky, monkeypatch):
    monkeypatch.setattr(prediction, "_MOST_CELLS", 0)
    with pytest.raises(ResourceError, match=r"a\.ms, field .* predict by “product”"):
        run([path], Subtraction(("model",), SkySource(sky), way="degrid"))
    run([path], Subtraction(("model",), SkySource(sky)))


@pytest.fixture
def pixel_set(tmp_path, make_block):
    """A set of sources on pixels of GEOMETRY, whose fluxes grow linearly with frequency."""
    lm = [(-(c - 32) * 4e-3, (r - 32) * 4e-3, flux_jy) for r, c, flux_jy in PIXELS]
    made = make_block(FREQ_HZ, sources=lm)
    growth = 1 + (FREQ_HZ - FREQ_HZ[0]) / np.ptp(FREQ_HZ)
    write_measurement_set(
        tmp_path / "p.ms",
        made.with_vis((made.vis * growth[:, np.newaxis] + LINE[:, np.newaxis]).astype("c8")),
    )
    return tmp_path / "p.ms"


def write_cube(path, geometry=GEOMETRY, unit="Jy/pixel"):
    cube = np.zeros((2, 64, 64), dtype=np.float32)
    for row, column, flux_jy in PIXELS:
        cube[:, row, column] = flux_jy, 2 * flux_jy
    cell_deg = np.rad2deg(geometry.cell_rad)
    centre_deg = np.rad2deg([geometry.phase_centre.ra_rad, geometry.phase_centre.dec_rad])
    axes = (
        ("RA---SIN", centre_deg[0], -cell_deg, 33),
        ("DEC--SIN", centre_deg[1], cell_deg, 33),
        ("FREQ", FREQ_HZ[0], np.ptp(FREQ_HZ), 1),
    )
    header = fits.Header({"BUNIT": unit})
    for number, cards in enumerate(axes, start=1):
        for key, value in zip(("CTYPE", "CRVAL", "CDELT", "CRPIX"), cards, strict=True):
            header[f"{key}{number}"] = value
    fits.writeto(path, cube, header)
    return path


@pytest.mark.parametrize("way", ["product", "degrid"])
def test_fits_cubes_are_interpolated_in_frequency(pixel_set, tmp_path, way):
    cube = write_cube(tmp_path / "model.fits")
    run([pixel_set], Subtraction(("model",), cube, way=way))
    assert_only_the_line(pixel_set, "LINE_DATA")


@pytest.mark.parametrize("way", ["product", "degrid"])
def test_the_model_of_ical(pixel_set, way):
    pixels = np.array([row * 64 + column for row, column, _ in PIXELS])
    order = np.argsort(pixels)
    flux_jy = np.array([flux for _, _, flux in PIXELS])
    slope = flux_jy * FREQ_HZ[0] / np.ptp(FREQ_HZ)
    terms = np.stack([flux_jy, slope], axis=1)[order]
    model = ContinuumModel(GEOMETRY, pixels[order], terms, float(FREQ_HZ[0]))
    run([pixel_set], Subtraction(("model",), PlaneSource.of(model), way=way))
    assert_only_the_line(pixel_set, "LINE_DATA", atol=2e-5)


def test_an_image_about_another_centre(pixel_set, tmp_path):
    """Its pixels become components: compared with the two ways of doing that."""
    centre = Direction(CENTRE.ra_rad + 0.01, CENTRE.dec_rad)
    cube = write_cube(tmp_path / "model.fits", replace(GEOMETRY, phase_centre=centre))
    for way in ("product", "degrid"):
        run([pixel_set], Subtraction(("model",), cube, way=way), output_column=way.upper())
    first = read_measurement_set(pixel_set, column="PRODUCT").vis
    np.testing.assert_allclose(
        read_measurement_set(pixel_set, column="DEGRID").vis, first, atol=1e-5
    )
    assert np.abs(first).max() > 1


def test_an_image_in_jansky_per_beam_is_refused(path, tmp_path):
    cube = write_cube(tmp_path / "restored.fits", unit="Jy/beam")
    with pytest.raises(DataError, match=r"restored\.fits: its unit is Jy/beam"):
        run([path], Subtraction(("model",), cube))


def test_a_fit_leaves_the_line(path):
    (result,) = run([path], FIT)
    assert_only_the_line(path, "LINE_DATA", atol=0.02)
    assert result.rms_after_jy < 1e-3 < 1 < result.rms_before_jy
    with table(str(path), ack=False) as main:
        record = main.getcolkeyword("LINE_DATA", "SUBTRACTION")
    assert record["FIT_ORDER"] == 2
    assert record["LINE_FREE"][0].endswith("0~5, 19~23")


@pytest.mark.parametrize("methods", [("model", "fit"), ("fit", "model")])
def test_both_in_either_order(path, sky, methods):
    half = SkyModel(sky.components[:2])
    run([path], replace(FIT, methods=methods, model=SkySource(half)))
    vis = read_measurement_set(path, column="LINE_DATA").vis
    if methods[-1] == "fit":
        assert np.abs(vis[:, :6]).max() < 1e-3
    else:  # the fit takes everything, the model puts its own back
        assert np.abs(vis[:, :6]).max() > 1


def test_clipping_writes_its_mask(path):
    clipped = Subtraction(("fit",), fit_order=2, line_free=LineFree(clip_sigma=6.0))
    (result,) = run([path], clipped)
    assert not result.line_free[0][10:15].any()
    assert np.count_nonzero(result.line_free[0]) > 10
    assert result.line_free_file == path.with_name("a.ms.line_free.csv")
    again = replace(FIT, line_free=LineFree(result.line_free_file))
    (plan,) = plan_subtraction([path], again, output_column="AGAIN")
    np.testing.assert_array_equal(plan.groups[0].line_free, result.line_free[0])
    result.line_free_file.write_text("field,spw,n_chan,channels\nM31,0,24,0~3\n")
    with pytest.raises(DataError, match=r"has no line-free channels for .*a\.ms, field"):
        plan_subtraction([path], again, output_column="AGAIN")


def test_many_units_are_one_unit(path, monkeypatch):
    run([path], FIT)
    monkeypatch.setattr(module, "UNIT_SAMPLES", 1)
    (plan,) = plan_subtraction([path], FIT, output_column="PARTS")
    assert len(plan.groups[0].units) == 4  # integrations stay whole
    run([path], FIT, output_column="PARTS")
    parts = read_measurement_set(path, column="PARTS").vis
    np.testing.assert_array_equal(parts, read_measurement_set(path, column="LINE_DATA").vis)


def test_a_new_set_leaves_the_old_one_alone(path, tmp_path, block):
    (result,) = run([path], FIT, output=tmp_path / "line")
    assert result.path == tmp_path / "line" / "a.ms"
    assert_only_the_line(result.path, "DATA", atol=0.02)
    np.testing.assert_array_equal(read_measurement_set(path).vis, block.vis)
    with table(str(path), ack=False) as main:
        assert "LINE_DATA" not in main.colnames()
    assert [p.name for p in (tmp_path / "line").iterdir()] == ["a.ms"]


def test_nothing_is_replaced_unasked(path, tmp_path):
    run([path], FIT)
    run([path], FIT, output=tmp_path / "line")
    for more, what in (
        ({}, "has a column LINE_DATA already"),
        ({"output_column": "DATA"}, "has a column DATA already"),
        ({"output": tmp_path / "line"}, "is there already"),
        ({"output": tmp_path, "overwrite": True}, "cannot be replaced by itself"),
        ({"output_column": "FLAG", "overwrite": True}, "holds no visibilities"),
    ):
        with pytest.raises(ProductError, match=what):
            plan_subtraction([path], FIT, **more)
    run([path], FIT, overwrite=True)
    run([path], FIT, output=tmp_path / "line", overwrite=True)
    assert_only_the_line(path, "LINE_DATA", atol=0.02)
    assert_only_the_line(tmp_path / "line" / "a.ms", "DATA", atol=0.02)


@pytest.mark.parametrize("output", [False, True])
def test_a_failure_leaves_nothing(path, tmp_path, monkeypatch, output):
    def fail(*_):
        raise DataError("a disk on fire")

    monkeypatch.setattr(module, "subtract_fit", fail)
    with pytest.raises(DataError, match="a disk on fire"):
        run([path], FIT, output=tmp_path / "line" if output else None)
    with table(str(path), ack=False) as main:
        assert main.colnames().count("DATA") == 1
        assert not [name for name in main.colnames() if name.startswith("LINE")]
    assert not output or not list((tmp_path / "line").iterdir())


def test_what_a_killed_run_left_is_cleared(path, tmp_path):
    with table(str(path), readonly=False, ack=False) as main:
        main.addcols(
            {"LINE_DATA_PARTIAL": main.getcoldesc("DATA")},
            {**main.getdminfo("DATA"), "NAME": "left"},
        )
    (tmp_path / "line" / "a.ms.partial").mkdir(parents=True)
    run([path], FIT)
    run([path], FIT, output=tmp_path / "line")
    with table(str(path), ack=False) as main:
        assert "LINE_DATA_PARTIAL" not in main.colnames()
    assert [p.name for p in (tmp_path / "line").iterdir()] == ["a.ms"]


def test_two_spectral_windows_are_fitted_apart(path):
    with table(str(path / "SPECTRAL_WINDOW"), readonly=False, ack=False) as windows:
        windows.addrows(1)
        for name in windows.colnames():
            if windows.iscelldefined(name, 0):
                windows.putcell(name, 1, windows.getcell(name, 0))
        windows.putcell("CHAN_FREQ", 1, FREQ_HZ + 5e6)
    with table(str(path / "DATA_DESCRIPTION"), readonly=False, ack=False) as descriptions:
        descriptions.addrows(1)
        descriptions.putcell("SPECTRAL_WINDOW_ID", 1, 1)
    with table(str(path), readonly=False, ack=False) as main:
        numbers = np.arange(main.nrows(), dtype=np.int32) % 2
        main.putcol("DATA_DESC_ID", numbers)
        data = main.getcol("DATA")
        data[numbers == 1] = 7 - 2j
        main.putcol("DATA", data)
    structure = describe_structure(path)
    assert [len(group.rows) for group in structure.groups] == [len(numbers) // 2] * 2
    run([path], FIT)
    with table(str(path), ack=False) as main:
        rest = main.getcol("LINE_DATA")
    np.testing.assert_allclose(rest[numbers == 1], 0, atol=1e-5)
    assert np.abs(rest[numbers == 0][:, 12]).mean() == pytest.approx(0.5, abs=0.01)
    (result,) = run([path], replace(FIT, windows=("1",)), output_column="SECOND")
    assert len(result.line_free) == 1
    with table(str(path), ack=False) as main:
        second = main.getcol("SECOND")
    np.testing.assert_allclose(second[numbers == 1], 0, atol=1e-5)
    np.testing.assert_array_equal(second[numbers == 0], data[numbers == 0])
    with pytest.raises(DataError, match="no data for “M31”; there are the fields 0 field, window"):
        run([path], replace(FIT, fields=("M31",)), output_column="THIRD")


def test_spectra_without_channels_become_blank_and_flagged(path, tmp_path, caplog):
    with table(str(path), readonly=False, ack=False) as main:
        flags = main.getcol("FLAG")
        flags[5, :22] = True
        flags[:, 3] = True
        main.putcol("FLAG", flags)
        data = main.getcol("DATA")
        data[6, 4] = np.nan
        main.putcol("DATA", data)
    (result,) = run([path], FIT, output=tmp_path / "line")
    assert result.n_unknown == 4
    assert "have no continuum" in caplog.text
    with table(str(result.path), ack=False) as main:
        assert main.getcol("FLAG")[5].all()
        assert main.getcol("FLAG")[6, 4].all()
        assert not main.getcol("FLAG")[6, 5:].any()


def test_what_cannot_be_fitted_is_refused(path):
    few = replace(FIT, line_free=LineFree(parse_ranges("3~4")))
    with pytest.raises(DataError, match=r"a\.ms, field .*only 2 of 24 .*3~4.* order 2 needs 3"):
        run([path], few)
    none = replace(FIT, line_free=LineFree(parse_ranges("1~2GHz")))
    with pytest.raises(DataError, match=r"a\.ms, field .* hold none of the 24 channels"):
        run([path], none)
    with pytest.raises(DataError, match="no column CORRECTED_DATA"):
        run([path], replace(FIT, column="CORRECTED_DATA"))
    with table(str(path), readonly=False, ack=False) as main:
        main.putcol("FLAG", np.ones_like(main.getcol("FLAG")))
    with pytest.raises(DataError, match="all samples are flagged"):
        run([path], FIT)


def test_velocity_ranges_follow_the_frame(path, block):
    middle = (block.time_mjd_s[0] + block.time_mjd_s[-1]) / 2
    place = block.stations.reference_itrf_m
    factor = float(doppler_factor("TOPO", "LSRK", middle, CENTRE, place))
    velocity_km_s = velocity_from_freq(FREQ_HZ * factor, 1.002e8) / 1e3
    ranges = parse_ranges(f"{velocity_km_s[9] - 1}~{velocity_km_s[7] + 1}km/s")
    line_free = LineFree(ranges, frame="LSRK", rest_freq_hz=1.002e8)
    (plan,) = plan_subtraction([path], replace(FIT, line_free=line_free))
    np.testing.assert_array_equal(np.flatnonzero(plan.groups[0].line_free), [7, 8, 9])


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": ()},
        {"methods": ("fit", "fit")},
        {"methods": ("model",)},
        {"methods": ("fit",), "fit_order": -1},
        {
            "methods": ("fit",),
            "line_free": LineFree(parse_ranges("0~1"), clip_sigma=3.0),
        },
    ],
)
def test_contradictions_are_refused(wrong):
    with pytest.raises(ParameterError):
        Subtraction(**wrong)


def test_corrected_data_become_the_data_of_a_new_set(path, tmp_path):
    with table(str(path), readonly=False, ack=False) as main:
        description = main.getcoldesc("DATA")
        main.addcols(
            makecoldesc("CORRECTED_DATA", description), {**main.getdminfo("DATA"), "NAME": "corr"}
        )
        main.putcol("CORRECTED_DATA", main.getcol("DATA"))
        main.putcol("DATA", np.zeros_like(main.getcol("DATA")))
    (result,) = run([path], replace(FIT, column="CORRECTED_DATA"), output=tmp_path / "line")
    assert_only_the_line(result.path, "DATA", atol=0.02)
    with table(str(result.path), ack=False) as main:
        assert "CORRECTED_DATA" not in main.colnames()
