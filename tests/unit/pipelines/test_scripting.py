"""The workflows for scripts, run at once; tests/integration compares them with Dask."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.execution import rsexecute
from batch_imaging.io.fits_image import read_fits_image
from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.kernels.gains import baseline_gains, solve_gains, sum_normal_matrices
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.pipelines import (
    SkyPartition,
    advise_wide_field,
    apply_gaintable,
    calibrate_list_rsexecute_workflow,
    coalesce_list_rsexecute_workflow,
    continuum_imaging_list_rsexecute_workflow,
    corrupt_list_rsexecute_workflow,
    create_calibration_controls,
    create_gaintable_from_visibility,
    create_image_from_visibility,
    create_low_test_image_from_gleam,
    create_named_configuration,
    create_skycomponent,
    create_visibility_from_ms,
    deconvolve_list_rsexecute_workflow,
    export_image_to_fits,
    ical_list_rsexecute_workflow,
    image_gather_facets,
    image_scatter_facets,
    insert_skycomponent,
    invert_list_rsexecute_workflow,
    mpccal_skymodel_list_rsexecute_workflow,
    predict_list_rsexecute_workflow,
    predict_skycomponent_visibility,
    qa_image,
    residual_list_rsexecute_workflow,
    restore_list_rsexecute_workflow,
    show_image,
    simulate_gaintable,
    simulate_list_rsexecute_workflow,
    spectral_line_imaging_list_rsexecute_workflow,
    taper_list_rsexecute_workflow,
    weight_list_rsexecute_workflow,
)

CENTRE = Direction.from_degrees(15.0, -60.0)
FREQ_HZ = np.linspace(0.8e8, 1.2e8, 3)
CELL_RAD, NPIXEL = 0.002, 128
ON_PIXEL = (-20 * CELL_RAD, 30 * CELL_RAD)  # l, m


def source(l, m, flux_jy, freq_hz=FREQ_HZ):
    ra_rad, dec_rad = radec_from_lm(l, m, CENTRE)
    return create_skycomponent(Direction(float(ra_rad), float(dec_rad)), flux_jy, freq_hz)


def observe(rmax):
    return simulate_list_rsexecute_workflow(
        "LOWBD2",
        phasecentre=CENTRE,
        frequency=FREQ_HZ,
        channel_bandwidth=[2e7],
        times=np.linspace(-0.5, 0.5, 3),
        rmax=rmax,
    )


@pytest.fixture(scope="module")
def empty_vis():
    return observe(rmax=200.0)


@pytest.fixture(scope="module")
def models(empty_vis):
    return [create_image_from_visibility(v, npixel=NPIXEL, cellsize=CELL_RAD) for v in empty_vis]


@pytest.fixture(scope="module")
def bright_jy():
    return 100 * (FREQ_HZ / 1e8) ** -0.7


@pytest.fixture(scope="module")
def vis_list(empty_vis, bright_jy):
    sky = source(*ON_PIXEL, bright_jy)
    return [predict_skycomponent_visibility(v, sky) for v in empty_vis]


def test_misspelt_names_and_values_are_refused_with_the_nearest(vis_list, models):
    with pytest.raises(ParameterError, match=r"'fractional_thresholds' .* 'fractional_threshold'"):
        continuum_imaging_list_rsexecute_workflow(vis_list, models, fractional_thresholds=0.1)
    with pytest.raises(ParameterError, match=r"'mmclan' .* 'mmclean'"):
        continuum_imaging_list_rsexecute_workflow(vis_list, models, algorithm="mmclan")
    with pytest.raises(ParameterError, match=r"'wstak' .* 'wstack'"):
        predict_list_rsexecute_workflow(vis_list, models, context="wstak")
    with pytest.raises(ParameterError, match="calibration_context 'K'"):
        ical_list_rsexecute_workflow(vis_list, models, calibration_context="TK")
    with pytest.raises(ParameterError, match=r"timeslice '60.0' .* auto"):
        continuum_imaging_list_rsexecute_workflow(vis_list, models, timeslice=60.0)
    with pytest.raises(ParameterError, match="'dopsf' is not known"):
        continuum_imaging_list_rsexecute_workflow(vis_list, models, timeslice="auto", dopsf=True)
    controls = create_calibration_controls()
    controls["T"]["timeslice"] = 60.0
    with pytest.raises(ParameterError, match="only 'auto'"):
        calibrate_list_rsexecute_workflow(vis_list, vis_list, "T", controls=controls)
    with pytest.raises(ParameterError, match=r"'LOWBD' .* 'LOWBD2'"):
        create_named_configuration("LOWBD")


def test_what_the_gridder_makes_needless_is_said_once(vis_list, models, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            slabs = predict_list_rsexecute_workflow(
                vis_list[:1], models[:1], context="wprojection", vis_slices=11, wstep=2.0
            )
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == 3
    assert any("wstep has no effect" in text for text in said)
    assert np.array_equal(
        slabs[0].vis, predict_list_rsexecute_workflow(vis_list[:1], models[:1])[0].vis
    )


@pytest.mark.parametrize("global_solution", [False, True])
def test_calibration_meets_the_figures_of_the_original(global_solution):
    frequency = np.linspace(0.8e8, 1.2e8, 3)
    vis = simulate_list_rsexecute_workflow("LOWBD2", frequency=frequency, rmax=750.0)
    vis = [v.with_vis(np.ones_like(v.vis)) for v in vis]
    table = simulate_gaintable(create_gaintable_from_visibility(vis[0]), phase_error=0.1, seed=1)
    observed = corrupt_list_rsexecute_workflow(vis, [table] * 3)

    calibrated, tables = calibrate_list_rsexecute_workflow(
        observed, vis, "T", global_solution=global_solution, controls=create_calibration_controls()
    )

    assert len(tables) == (1 if global_solution else 3)
    error = np.concatenate([c.vis - v.vis for c, v in zip(calibrated, vis, strict=True)])
    assert np.sqrt(np.mean(np.abs(error) ** 2)) < 7e-6
    assert np.abs(error).max() < 2e-6
    turned = tables[0]["T"].gain[0, :, 0, 0] / table.gain[0, :, 0, 0]
    assert np.angle(turned / turned[0]) == pytest.approx(0.0, abs=1e-6)


def test_solver_meets_the_figure_of_the_original():
    first, second = np.triu_indices(94, 1)
    rng = np.random.default_rng(1)
    true = np.exp(10j * rng.standard_normal((94, 1)))
    vis = baseline_gains(true, first, second)[:, :, np.newaxis]
    ones = np.ones(vis.shape)
    matrices = sum_normal_matrices(vis, ones.astype(complex), ones, (first, second), 94)

    solved = solve_gains(
        matrices, np.ones((1, 94), dtype=complex), phase_only=True, tolerance=1e-10
    )

    left = vis[:, :, 0] - baseline_gains(solved.gain.T, first, second)
    assert solved.converged
    assert np.sqrt(np.mean(np.abs(left) ** 2)) < 3e-8


def test_predicted_images_meet_the_figure_of_the_original(vis_list, models, bright_jy):
    filled = [insert_skycomponent(model, source(*ON_PIXEL, bright_jy)) for model in models]
    left = residual_list_rsexecute_workflow(vis_list, filled, context="2d")
    assert max(np.abs(image.data).max() for image, _ in left) < 2e-3  # the original: 0.16 Jy


def test_continuum_imaging_as_on_the_page_of_the_original(vis_list, models, bright_jy):
    freqwin = len(FREQ_HZ)
    rsexecute.set_client(use_dask=False)
    continuum_imaging_list = continuum_imaging_list_rsexecute_workflow(
        vis_list, model_imagelist=models, context="2d", algorithm="mmclean", facets=1,
        scales=[0, 3, 10], niter=1000, fractional_threshold=0.1, nmoment=2, nchan=freqwin,
        threshold=2.0, nmajor=5, gain=0.1, deconvolve_facets=8, deconvolve_overlap=8,
        deconvolve_taper="tukey",
    )  # fmt: skip
    clean, residual, restored = rsexecute.compute(continuum_imaging_list, sync=True)
    for k in range(freqwin):
        assert restored[k].data.max() == pytest.approx(bright_jy[k], rel=2e-3)
        assert clean[k].data.sum() == pytest.approx(bright_jy[k], rel=0.05)
    assert np.abs(np.mean([image.data for image, _ in residual], axis=0)).max() < 2.1


def test_ical_meets_the_figures_of_the_original(models, bright_jy):
    sky = source(*ON_PIXEL, bright_jy)
    observed = [predict_skycomponent_visibility(v, sky) for v in observe(rmax=300.0)]
    observed = corrupt_list_rsexecute_workflow(observed, phase_error=1.0, seed=3)
    controls = create_calibration_controls()
    controls["T"]["first_selfcal"] = 1

    clean, _, restored, tables = ical_list_rsexecute_workflow(
        observed, model_imagelist=models, context="2d", algorithm="mmclean", scales=[0, 3, 10],
        niter=1000, fractional_threshold=0.1, threshold=0.1, nmoment=3, nmajor=5, gain=0.1,
        deconvolve_facets=4, deconvolve_overlap=8, deconvolve_taper="tukey", restore_facets=4,
        calibration_context="T", controls=controls, do_selfcal=True, global_solution=False,
    )  # fmt: skip

    assert len(clean) == len(tables) == 3
    assert restored[1].data.max() == pytest.approx(100.0, abs=0.0077)
    assert restored[1].data.min() > -0.034


def test_spectral_line_imaging_finds_the_line_beside_the_continuum(vis_list, models, bright_jy):
    line = source(25 * CELL_RAD, 0.0, [0.0, 5.0, 0.0])
    observed = [v.with_vis(v.vis + predict_skycomponent_visibility(v, line).vis) for v in vis_list]
    continuum = [insert_skycomponent(model, source(*ON_PIXEL, bright_jy)) for model in models]

    _, _, restored = spectral_line_imaging_list_rsexecute_workflow(
        observed, models, continuum_model_imagelist=continuum, nmajor=2, threshold=0.1
    )

    assert restored[1].data.max() == pytest.approx(5.0, abs=0.05)
    assert np.abs(restored[0].data).max() < 0.05


def test_mpccal_finds_the_gains_of_each_part_of_the_sky(empty_vis, models):
    vis, model = empty_vis[1], models[1]
    skies = [source(*ON_PIXEL, 30.0), source(30 * CELL_RAD, -25 * CELL_RAD, 20.0)]
    ones = create_gaintable_from_visibility(vis)
    true = [simulate_gaintable(ones, phase_error=0.3, seed=seed) for seed in (1, 2)]
    seen = [
        apply_gaintable(predict_skycomponent_visibility(vis, sky), table).vis
        for sky, table in zip(skies, true, strict=True)
    ]
    told = []

    parts, residual = mpccal_skymodel_list_rsexecute_workflow(
        vis.with_vis(seen[0] + seen[1]), model, [SkyPartition(sky) for sky in skies], nmajor=15,
        mpccal_progress=lambda image, parts, cycle: told.append(np.abs(image.data).max()),
    )  # fmt: skip

    assert len(told) == 15
    assert told[-1] < 0.02 * told[0]
    assert np.abs(residual.data).max() < 0.05
    for part, table in zip(parts, true, strict=True):
        turned = part.gaintable.gain[..., 0, 0] / table.gain[..., 0, 0]
        assert np.std(np.angle(turned / turned[:, :1])) < 0.01


def test_slices_and_restoring_facets_change_nothing(vis_list, models, bright_jy):
    whole = invert_list_rsexecute_workflow(vis_list, models)
    parts = invert_list_rsexecute_workflow(vis_list, models, context="timeslice", vis_slices=3)
    assert parts[0][0].data == pytest.approx(whole[0][0].data, abs=1e-3)
    assert parts[0][1] == pytest.approx(whole[0][1])
    raw = invert_list_rsexecute_workflow(vis_list[:1], models[:1], normalise=False)
    assert raw[0][0].data == pytest.approx(whole[0][0].data * whole[0][1][0, 0], rel=1e-5)

    filled = [insert_skycomponent(m, source(*ON_PIXEL, bright_jy)) for m in models]
    one = predict_list_rsexecute_workflow(vis_list, filled)
    three = predict_list_rsexecute_workflow(vis_list, filled, context="timeslice", vis_slices=3)
    assert three[2].vis == pytest.approx(one[2].vis, abs=1e-2)

    psf = invert_list_rsexecute_workflow(vis_list, models, dopsf=True)
    alone = restore_list_rsexecute_workflow(filled, psf, whole)
    faceted = restore_list_rsexecute_workflow(filled, psf, whole, restore_facets=4)
    assert faceted[0].data == pytest.approx(alone[0].data, abs=1e-3)


@pytest.mark.parametrize("taper", [None, "linear", "quadratic", "tukey"])
def test_facets_put_together_are_the_image(models, taper):
    rng = np.random.default_rng(1)
    image = models[0].with_data(rng.standard_normal(models[0].data.shape))
    parts = image_scatter_facets(image, facets=3, overlap=7, taper=taper)
    assert len(parts) == 9
    assert image_gather_facets(parts, image, 3, 7, taper).data == pytest.approx(image.data)
    with pytest.raises(ParameterError, match="more than half of a facet"):
        image_scatter_facets(image, facets=8, overlap=9)


@pytest.mark.parametrize("algorithm", ["hogbom", "msclean", "mmclean"])
def test_every_algorithm_finds_the_source(vis_list, models, bright_jy, algorithm):
    dirty = invert_list_rsexecute_workflow(vis_list, models)
    psf = invert_list_rsexecute_workflow(vis_list, models, dopsf=True)
    found = deconvolve_list_rsexecute_workflow(
        dirty, psf, models, algorithm=algorithm, nmoment=2, fractional_threshold=0.05
    )
    for image, flux_jy in zip(found, bright_jy, strict=True):
        row, column = np.unravel_index(image.data[0, 0].argmax(), (NPIXEL, NPIXEL))
        assert (row, column) == (NPIXEL // 2 + 30, NPIXEL // 2 + 20)
        assert image.data.sum() == pytest.approx(flux_jy, rel=0.1)


def beam_width(vis, model):
    psf = invert_list_rsexecute_workflow([vis], [model], dopsf=True)
    (restored,) = restore_list_rsexecute_workflow([model], psf)
    return restored.beams[0].bmaj_rad


def test_weights_and_tapers_shape_the_beam(vis_list, models):
    natural = beam_width(vis_list[1], models[1])
    (uniform,) = weight_list_rsexecute_workflow([vis_list[1]], [models[1]])
    (robust,) = weight_list_rsexecute_workflow(
        [vis_list[1]], [models[1]], weighting="robust", robustness=0.0
    )
    widths = [beam_width(v, models[1]) for v in (uniform, robust)]
    assert widths[0] < widths[1] < natural

    (tapered,) = taper_list_rsexecute_workflow([vis_list[1]], natural)
    assert beam_width(tapered, models[1]) == pytest.approx(natural * 2**0.5, rel=0.1)
    (inverse,) = taper_list_rsexecute_workflow([vis_list[1]], natural, taper="inverse")
    assert tapered.weight + inverse.weight == pytest.approx(vis_list[1].weight)


def test_coalescing_averages_integrations_and_channels(empty_vis, vis_list):
    cube = replace(
        vis_list[0],
        vis=np.concatenate([v.vis for v in vis_list[:2]], axis=1),
        weight=np.concatenate([v.weight, v.weight * 3], axis=1) if (v := vis_list[0]) else None,
        freq_hz=FREQ_HZ[:2],
        chan_width_hz=np.full(2, 2e7),
    )
    (averaged,) = coalesce_list_rsexecute_workflow([cube], max_time_coal=3, max_frequency_coal=2)
    n = cube.n_rows // 3
    assert averaged.vis.shape == (n, 1, 1)
    assert (averaged.weight == 12).all()
    assert averaged.freq_hz.tolist() == [0.9e8]
    assert averaged.integration_s == 3 * cube.integration_s
    mean = (cube.vis * cube.weight).reshape(3, n, 2).sum(axis=(0, 2)) / 12
    assert averaged.vis[:, 0, 0] == pytest.approx(mean, abs=1e-4)
    assert averaged.uvw_m == pytest.approx(cube.uvw_m.reshape(3, n, 3).mean(axis=0))


def test_images_of_another_field_and_rows_that_differ_are_refused(vis_list, models):
    elsewhere = replace(
        models[0], geometry=replace(models[0].geometry, phase_centre=Direction(0.0, 0.0))
    )
    with pytest.raises(DataError, match="create_image_from_visibility"):
        invert_list_rsexecute_workflow(vis_list[:1], [elsewhere])
    (short,) = coalesce_list_rsexecute_workflow(vis_list[:1], max_time_coal=3)
    with pytest.raises(DataError, match="global_solution=False"):
        calibrate_list_rsexecute_workflow([short, vis_list[1]], [short, vis_list[1]], "T")


def test_vocabulary(vis_list, models, tmp_path):
    for order, elements in {"frequency": 2, "time": 3, "both": 6, None: 1}.items():
        assert elements == len(
            simulate_list_rsexecute_workflow(
                frequency=[1e8, 1.1e8], times=[-0.1, 0.0, 0.1], order=order, rmax=100.0
            )
        )
    sky = create_low_test_image_from_gleam(
        npixel=64, cellsize=0.004, phasecentre=CENTRE, flux_limit=1.0, applybeam=True
    )
    assert 0 < sky.data.max() < 100
    advice = advise_wide_field(vis_list[0])
    assert advice["npixels"] <= advice["npixels2"] < 2 * advice["npixels"]
    psf = invert_list_rsexecute_workflow(vis_list[:1], models[:1], dopsf=True)
    restored = restore_list_rsexecute_workflow(models[:1], psf, psfwidth=2.0)
    for name, vis in {"a.fits": vis_list[0], "b.fits": None}.items():
        export_image_to_fits(restored[0], tmp_path / name, vis)
        assert read_fits_image(tmp_path / name)
    assert qa_image(psf[0][0], context="psf").data["max"] == pytest.approx(1, abs=1e-5)
    show_image(restored[0], title="restored", fig=Figure())


def test_channels_of_a_set_are_read(vis_list, tmp_path):
    write_measurement_set(tmp_path / "a.ms", vis_list[0])
    (vis,) = create_visibility_from_ms(str(tmp_path / "a.ms"), start_chan=0, end_chan=0)
    assert np.array_equal(vis.vis[..., 0], vis_list[0].vis[..., 0])
