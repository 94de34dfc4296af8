"""Quick-look pictures: each function makes one figure of arrays and returns it as a PNG.

Matplotlib's objects are used without pyplot, so there is no global state and any process or thread
may draw. Colours are those of Okabe & Ito (2008), which the colour-blind can tell apart.
"""

from collections.abc import Sequence

import numpy as np
from astropy.visualization.wcsaxes import WCSAxes
from astropy.wcs import WCS
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.gains import GainTable
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.sky import SkyModel
from batch_imaging.pipelines.joint import MajorCycle
from batch_imaging.report.png import to_png
from batch_imaging.report.quality import PhaseError, PlaneQuality, SourceFit

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

DPI = 100
SKY_INCHES, SKY_ZOOM = (6.2, 5.44), 1.32  # pictures of the sky need pixels more than inches
INK, MUTED, GRID = "#222222", "#777777", "#dddddd"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKED_ABOVE_SIGMA = 5.0


# ---------------------------------------------------------------------------------------- sky


def draw_restored(
    plane: Plane,
    geometry: ImageGeometry,
    beam: RestoringBeam | None,
    noise_jy: float,
    title: str,
    *,
    sky: SkyModel | None = None,
    freq_hz: float = float("nan"),
) -> bytes:
    """Draw a restored image, its noise as well as its peak, and circles about the true sources.

    The stretch is asinh, linear within three times the noise. Sources fainter than five times the
    noise get no circle.
    """
    figure, axes = _sky_figure(geometry, title)
    norm, ticks = _stretch(plane, noise_jy)
    image = axes.imshow(plane, origin="lower", cmap="gray_r", norm=norm, interpolation="nearest")
    _colour_bar(figure, axes, image, "Jy/beam").set_ticks(ticks)
    if sky is not None and len(sky):
        rows, columns = geometry.pixel_of(sky.ra_rad, sky.dec_rad)
        shown = sky.flux_jy([freq_hz])[:, 0] > MARKED_ABOVE_SIGMA * noise_jy
        axes.scatter(
            columns[shown],
            rows[shown],
            s=90,
            facecolors="none",
            edgecolors=VERMILION,
            linewidths=0.6,
            alpha=0.8,
            label=f"{shown.sum()} true sources above {MARKED_ABOVE_SIGMA:g} × noise",
        )
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9, edgecolor=GRID)
        axes.set_xlim(-0.5, geometry.npixel - 0.5)
        axes.set_ylim(-0.5, geometry.npixel - 0.5)
    _draw_beam(axes, geometry, beam)
    return to_png(figure)


def draw_residual(
    plane: Plane,
    geometry: ImageGeometry,
    beam: RestoringBeam | None,
    noise_jy: float,
    title: str,
) -> bytes:
    """Draw a residual image, linear within ten times the noise."""
    figure, axes = _sky_figure(geometry, title)
    limit = 10 * noise_jy if noise_jy > 0 else _peak(np.abs(plane)) or 1.0
    power = 3 * int(np.floor(np.log10(limit) / 3))
    unit = {0: "Jy/beam", -3: "mJy/beam", -6: "µJy/beam"}.get(power, f"10$^{{{power}}}$ Jy/beam")
    scale = 10.0**-power
    image = axes.imshow(
        plane * np.float32(scale),
        origin="lower",
        cmap="RdBu_r",
        norm=Normalize(-limit * scale, limit * scale),
        interpolation="nearest",
    )
    _colour_bar(figure, axes, image, unit, extend="both")
    _draw_beam(axes, geometry, beam)
    return to_png(figure)


def draw_psf(
    plane: Plane, geometry: ImageGeometry, beam: RestoringBeam | None, title: str
) -> bytes:
    """Draw the middle of a point spread function, its half-maximum and the fitted beam."""
    pixel = np.rad2deg(geometry.cell_rad) * 60
    reach_pixel = 6 * beam.bmaj_rad / geometry.cell_rad if beam else geometry.npixel / 4
    half = int(min(geometry.npixel // 2, max(8, reach_pixel)))
    centre = geometry.npixel // 2
    cut = plane[centre - half : centre + half, centre - half : centre + half]
    edges = (np.array([half, -half]) + 0.5) * pixel
    extent = (edges[0], edges[1], -half * pixel - pixel / 2, half * pixel - pixel / 2)
    figure = Figure(figsize=(5.6, 4.7), dpi=DPI)
    axes = figure.add_axes((0.13, 0.12, 0.68, 0.79))
    image = axes.imshow(
        cut,
        origin="lower",
        cmap="RdBu_r",
        norm=AsinhNorm(0.02, vmin=-1, vmax=1),
        extent=extent,
        interpolation="nearest",
    )
    offset = np.arange(-half, half) * pixel
    axes.contour(-offset, offset, cut, levels=[0.5], colors=INK, linewidths=0.8)
    if beam:
        axes.add_patch(_ellipse((0, 0), beam, 60 * np.rad2deg(1.0), -1, edgecolor=ORANGE, lw=1.2))
    bar = _colour_bar(figure, axes, image, "response to 1 Jy, Jy/beam")
    ticks = [-1, -0.3, -0.1, -0.03, 0, 0.03, 0.1, 0.3, 1]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
    bar.minorticks_off()
    axes.set(xlabel="offset to the east / arcmin", ylabel="offset to the north / arcmin")
    axes.set_title(title, fontsize=10, loc="left")
    handles = [
        axes.plot([], [], color=INK, lw=0.8, label="half maximum")[0],
        axes.plot([], [], color=ORANGE, lw=1.2, label="fitted beam (FWHM)")[0],
    ]
    axes.legend(handles=handles, loc="upper right", fontsize=8, framealpha=0.9, edgecolor=GRID)
    return to_png(figure)


def draw_cut(cut: Plane, freq_hz: Floats, offset_rad: Floats, noise_jy: float, title: str) -> bytes:
    """Draw a cut (chan, column) of a cube: frequency against right ascension."""
    figure = Figure(figsize=(8.2, 3.4), dpi=DPI)
    axes = figure.add_axes((0.09, 0.16, 0.79, 0.73))
    norm, ticks = _stretch(cut, noise_jy)
    east_arcmin, freq_mhz = np.rad2deg(offset_rad) * 60, freq_hz / 1e6
    step = np.diff(freq_mhz).mean() if len(freq_mhz) > 1 else 1.0
    half = abs(east_arcmin[1] - east_arcmin[0]) / 2
    image = axes.imshow(
        cut,
        origin="lower",
        aspect="auto",
        cmap="gray_r",
        norm=norm,
        extent=(
            east_arcmin[0] + half,
            east_arcmin[-1] - half,
            freq_mhz[0] - step / 2,
            freq_mhz[-1] + step / 2,
        ),
        interpolation="nearest",
    )
    _colour_bar(figure, axes, image, "Jy/beam").set_ticks(ticks)
    axes.set(xlabel="offset to the east / arcmin", ylabel="frequency / MHz")
    axes.set_title(title, fontsize=10, loc="left")
    return to_png(figure)


# ------------------------------------------------------------------------------------- curves


def draw_spectra(freq_hz: Floats, fits: Sequence[Sequence[SourceFit]], n_shown: int = 6) -> bytes:
    """Draw spectra of the brightest sources, restored on truth, and how far apart they are.

    Parameters
    ----------
    fits: (window, source), the same sources in every window.
    """
    figure, (upper, lower) = _stack((8.2, 5.2), (2.2, 1))
    freq_mhz = freq_hz / 1e6
    names = [fit.name for fit in fits[0]][:n_shown]
    for k, name in enumerate(names):
        true_jy = np.array([window[k].true_jy for window in fits])
        restored_jy = np.array([window[k].restored_jy for window in fits])
        colour = CYCLE[k % len(CYCLE)]
        upper.plot(freq_mhz, true_jy, color=colour, lw=1, alpha=0.7)
        upper.plot(freq_mhz, restored_jy, "o", color=colour, ms=4, label=name)
        lower.plot(freq_mhz, 100 * (restored_jy / true_jy - 1), "o-", color=colour, ms=3, lw=0.8)
    _log_scale(upper)
    _plain_log(upper)
    upper.set_ylabel("flux density / Jy")
    upper.set_title("Brightest sources: restored (dots) and true (lines)", fontsize=10, loc="left")
    upper.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    lower.axhline(0, color=MUTED, lw=0.8)
    lower.set(ylabel="difference / %", xlabel="frequency / MHz")
    return to_png(figure)


def draw_channels(windows: Sequence[PlaneQuality], channels: Sequence[PlaneQuality] = ()) -> bytes:
    """Draw noise, peak and dynamic range of ICAL's windows and of the channels of the cube."""
    figure, axes = _stack((8.2, 5.8), (1.3, 1, 1))
    for planes, marker, colour, label in (
        (windows, "o", BLUE, "ICAL windows"),
        (channels, "x", VERMILION, "cube channels"),
    ):
        if not planes:
            continue
        freq_mhz = [plane.freq_hz / 1e6 for plane in planes]
        for each, values in zip(
            axes,
            (
                [1e3 * plane.rms_jy for plane in planes],
                [plane.peak_jy for plane in planes],
                [plane.dynamic_range for plane in planes],
            ),
            strict=True,
        ):
            each.plot(freq_mhz, values, marker=marker, color=colour, ms=4.5, lw=0.8)
        axes[0].lines[-1].set_label(f"residual rms, {label}")
    freq_mhz = [plane.freq_hz / 1e6 for plane in windows]
    axes[0].plot(
        freq_mhz,
        [1e3 * p.noise_jy for p in windows],
        "o:",
        color=SKY,
        ms=3,
        lw=0.8,
        label="robust noise, ICAL windows",
    )
    if windows and windows[0].theory_jy is not None:
        theory_mjy = [1e3 * (p.theory_jy or np.nan) for p in windows]
        axes[0].plot(freq_mhz, theory_mjy, color=INK, lw=1, ls="--", label="thermal noise")
    axes[0].legend(fontsize=8, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    for each in (axes[0], axes[2]):
        _log_scale(each)
    _plain_log(axes[0])
    _plain_log(axes[2])
    for each, label in zip(
        axes, ("noise / (mJy/beam)", "peak / (Jy/beam)", "dynamic range"), strict=True
    ):
        each.set_ylabel(label)
    axes[2].set_xlabel("frequency / MHz")
    return to_png(figure)


def draw_cycles(cycles: Sequence[MajorCycle]) -> bytes:
    """Draw how the residual fell from major cycle to major cycle."""
    figure = Figure(figsize=(5.6, 4.2), dpi=DPI)
    axes = figure.add_axes((0.14, 0.13, 0.83, 0.78))
    index = [cycle.index for cycle in cycles]
    for values, colour, marker, label in (
        ([c.peak_jy for c in cycles], VERMILION, "^", "peak"),
        ([c.rms_jy for c in cycles], BLUE, "o", "rms"),
        ([c.noise_jy for c in cycles], SKY, "s", "robust noise"),
    ):
        axes.plot(index, values, color=colour, marker=marker, ms=4.5, lw=1, label=label)
    begun = next((c.index for c in cycles if c.context), None)
    if begun is not None:
        axes.axvline(begun - 0.5, color=MUTED, lw=0.8, ls=":")
        axes.annotate(
            "self-calibration →",
            (begun - 0.45, 0.02),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=MUTED,
        )
    _log_scale(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="major cycle", ylabel="residual / (Jy/beam)")
    axes.set_title("Residual at the start of each major cycle", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False)
    _tidy(axes)
    return to_png(figure)


def draw_gains(
    solved: GainTable, chan: int, true: GainTable | None = None, n_shown: int = 6
) -> bytes:
    """Draw phases of some stations against time, one channel, relative to the mean of all stations.

    Parameters
    ----------
    true: on the axes of ``solved``.
    """
    figure = Figure(figsize=(5.6, 4.2), dpi=DPI)
    axes = figure.add_axes((0.13, 0.13, 0.84, 0.78))
    minutes = (solved.time_mjd_s - solved.time_mjd_s[0]) / 60
    stations = np.linspace(0, len(solved.station_names) - 1, n_shown).astype(int)
    phases_rad = _relative_phase(solved.gain[:, :, chan, 0])
    truth_rad = None if true is None else _relative_phase(true.gain[:, :, chan, 0])
    for k, station in enumerate(np.unique(stations)):
        colour = CYCLE[k % len(CYCLE)]
        name = solved.station_names[station]
        axes.plot(minutes, phases_rad[:, station], "o-", color=colour, ms=4, lw=0.5, label=name)
        if truth_rad is not None:
            axes.plot(minutes, truth_rad[:, station], "o", mfc="none", mec=colour, ms=9, mew=0.8)
    axes.set(xlabel="time since the first integration / min", ylabel="station phase / rad")
    truth = ", true (rings)" if true is not None else ""
    freq_mhz = solved.freq_hz[chan] / 1e6
    axes.set_title(
        f"Gain phases at {freq_mhz:.2f} MHz: solved (dots){truth}", fontsize=10, loc="left"
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.22 * (high - low))
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper left")
    _tidy(axes)
    return to_png(figure)


def draw_phase_error(error: PhaseError) -> bytes:
    """Draw the distribution of solved minus true phases of all stations, times and channels."""
    figure = Figure(figsize=(5.6, 4.2), dpi=DPI)
    axes = figure.add_axes((0.13, 0.13, 0.84, 0.78))
    for values, rms_rad, colour, label in (
        (error.with_shift_rad, error.rms_with_shift_rad, ORANGE, "common phase removed"),
        (error.residual_rad, error.rms_rad, BLUE, "and shift of the sky removed"),
    ):
        size = np.sort(np.abs(values[np.isfinite(values)])) * 1e3
        fraction = np.arange(1, len(size) + 1) / len(size)
        axes.plot(
            size, fraction, color=colour, lw=1.4, label=f"{label}: rms {1e3 * rms_rad:.3g} mrad"
        )
        axes.axvline(1e3 * rms_rad, 0, 1 / 1.22, color=colour, lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_xlim(left=max(1e3 * error.rms_rad / 100, 1e-12))
    axes.set(xlabel="|solved − true phase| / mrad", ylabel="fraction of station phases below")
    axes.set_title("Station phases against the truth", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_ylim(0, 1.22)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    _tidy(axes)
    return to_png(figure)


# -------------------------------------------------------------------------------------- parts


def _sky_figure(geometry: ImageGeometry, title: str) -> tuple[Figure, WCSAxes]:
    wcs = WCS(naxis=2)
    cell_deg = float(np.rad2deg(geometry.cell_rad))
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = np.rad2deg([geometry.phase_centre.ra_rad, geometry.phase_centre.dec_rad])
    wcs.wcs.crpix = [geometry.npixel / 2 + 1] * 2
    wcs.wcs.cdelt = [-cell_deg, cell_deg]
    wcs.wcs.radesys = "ICRS"
    figure = Figure(figsize=SKY_INCHES, dpi=DPI * SKY_ZOOM)
    axes = WCSAxes(figure, (0.125, 0.1, 0.735, 0.838), wcs=wcs)
    figure.add_axes(axes)
    for coordinate, label in zip(
        axes.coords, ("right ascension (ICRS)", "declination (ICRS)"), strict=True
    ):
        coordinate.set_axislabel(label)
        coordinate.set_ticklabel(simplify=False)
        coordinate.grid(color=SKY, alpha=0.35, linewidth=0.5)
    axes.set_title(title, fontsize=10, loc="left")
    return figure, axes


def _draw_beam(axes: Axes, geometry: ImageGeometry, beam: RestoringBeam | None) -> None:
    if beam is None:
        return
    corner = 0.035 * geometry.npixel + beam.bmaj_rad / geometry.cell_rad
    axes.add_patch(
        _ellipse((corner, corner), beam, 1 / geometry.cell_rad, 1, facecolor=BLUE, edgecolor="w")
    )


def _ellipse(
    centre: tuple[float, float],
    beam: RestoringBeam,
    per_rad: float,
    east: int,
    *,
    edgecolor: str,
    facecolor: str = "none",
    lw: float = 0.8,
) -> Ellipse:
    """Return the beam at half maximum; ``east`` is −1 where the x axis itself counts eastwards."""
    return Ellipse(
        centre,
        beam.bmin_rad * per_rad,
        beam.bmaj_rad * per_rad,
        angle=east * float(np.rad2deg(beam.bpa_rad)),
        facecolor=facecolor,
        edgecolor=edgecolor,
        linewidth=lw,
        zorder=5,
    )


def _colour_bar(figure: Figure, axes: Axes, image: AxesImage, label: str, extend: str = "neither"):  # type: ignore[no-untyped-def]  # noqa: ANN202
    box = axes.get_position()
    beside = figure.add_axes((box.x1 + 0.015, box.y0, 0.018, box.height))
    bar = figure.colorbar(image, cax=beside, label=label, extend=extend)
    bar.outline.set_linewidth(0.5)
    bar.minorticks_off()
    return bar


def _stretch(plane: Plane, noise_jy: float) -> tuple[AsinhNorm, list[float]]:
    """Return a stretch linear within three times the noise, and ticks from there to the peak.

    An empty sky without noise has neither, a plane without data no pixels: both get some scale.
    """
    peak = _peak(plane)
    noise = noise_jy if noise_jy > 0 else 1e-5 * peak or 1.0
    first, last = int(np.ceil(np.log10(noise) + 0.7)), int(np.floor(np.log10(max(peak, noise))))
    ticks = [0.0, *(10.0**power for power in range(first, last + 1))]
    if peak > 2 * ticks[-1]:
        ticks.append(peak)
    return AsinhNorm(3 * noise, vmin=-5 * noise, vmax=max(peak, 10 * noise)), ticks


def _peak(plane: Plane) -> float:
    """Return the highest finite pixel; zero if none is positive."""
    return float(np.max(plane, where=np.isfinite(plane), initial=0.0))


def _stack(size: tuple[float, float], heights: tuple[float, ...]) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels one above the other that share the x axis."""
    figure = Figure(figsize=size, dpi=DPI)
    right = 0.77 if len(heights) == 2 else 0.97
    grid = figure.add_gridspec(
        len(heights),
        1,
        height_ratios=heights,
        hspace=0.08,
        left=0.115,
        right=right,
        bottom=0.09,
        top=0.93,
    )
    axes = [figure.add_subplot(grid[0])]
    axes += [figure.add_subplot(grid[i], sharex=axes[0]) for i in range(1, len(heights))]
    for each in axes:
        _tidy(each)
        each.yaxis.set_label_coords(-0.085, 0.5)
    for each in axes[:-1]:
        each.tick_params(labelbottom=False)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, lw=0.5)
    axes.set_axisbelow(True)


def _log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic where there is anything to show so: an empty sky leaves zeros."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    if (values > 0).any():
        axes.set_yscale("log")


def _plain_log(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers, in between decades too if it spans but few."""
    low, high = axes.get_ylim()
    few = low > 0 and high < 30 * low
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_minor_formatter(
        FuncFormatter(lambda x, _: f"{x:g}" if few and f"{x:e}"[0] in "235" else "")
    )


def _relative_phase(gain: NDArray[np.complex128]) -> Floats:
    """Return the phases (time, station) relative to the mean direction of all stations."""
    unit = gain / np.abs(gain)
    mean = unit.mean(axis=1, keepdims=True)
    return np.asarray(np.angle(unit * mean.conj()))
