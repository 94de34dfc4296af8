"""report.html beside the cubes of `batch-imaging image`: maps, noise and beam, and outcomes."""

import base64
import html
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from batch_imaging.io.fits_image import ImageHeader, publishing
from batch_imaging.io.plane_sink import read_plane
from batch_imaging.pipelines.cube_imaging import CubeResult
from batch_imaging.pipelines.plane_imaging import Outcome, PlaneResult
from batch_imaging.report.png import to_png

FILE_NAME = "report.html"
MAPS = 12
MAP_NPIXEL = 256  # a map shows the highest of each block of pixels beyond that
DPI = 100
_ARCSEC = 3600 * 180 / np.pi
_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse}"
    "td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd;"
    "white-space:nowrap}td.words{text-align:left;white-space:normal}tr.bad{background:#fdecea}"
)


def write_plane_report(folder: Path, result: CubeResult, sections: Iterable[str] = ()) -> Path:
    """Write the page, with more sections (HTML) before its table.

    Raises
    ------
    ProductError: it could not be written.
    """
    path = folder.absolute() / FILE_NAME
    counts = ", ".join(
        f"{number} {outcome}" for outcome in Outcome if (number := result.count(outcome))
    )
    title = f"{result.header.object_name}: {len(result.planes)} planes"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>{counts}</p>",
        picture(draw_maps(result), "Maps"),
        picture(draw_planes(result), "Noise, peak and beam"),
        *sections,
        "<h2>Planes</h2><table><tr><th>plane<th>position<th>outcome<th>noise [Jy/beam]"
        "<th>peak [Jy/beam]<th>beam<th>iterations<th>remark",
        *(_row(plane, result.header) for plane in result.planes),
        "</table></html>",
    ]
    with publishing(path) as partial:
        partial.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return path


def draw_maps(result: CubeResult) -> bytes:
    """Draw up to twelve planes, evenly spread but with the brightest, in one scale."""
    good = [plane for plane in result.planes if plane.outcome is Outcome.OK]
    spread = {round(k) for k in np.linspace(0, len(good) - 1, min(MAPS - 1, len(good)))}
    brightest = max(good, key=lambda plane: plane.peak_jy)
    shown = sorted({good[k].index for k in spread} | {brightest.index})
    noise_jy = float(np.median([plane.noise_jy for plane in good])) or 1e-9  # blank all over
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.4 * columns + 1, 2.5 * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
        axes.set(xticks=[], yticks=[])  # the layout would measure them all the same
    picture, faint_mjy = None, 5e3 * noise_jy
    for axes, index in zip(panels.flat, shown, strict=False):
        pixels = _thinned(read_plane(result.files["image"], index))
        picture = axes.imshow(
            1e3 * pixels,
            origin="lower",
            cmap="inferno",
            norm=AsinhNorm(
                linear_width=faint_mjy,
                vmin=-3e3 * noise_jy,
                vmax=1e3 * max(brightest.peak_jy, 10 * noise_jy),
            ),
        )
        axes.set_title(f"{index}: {_position(index, result.header)}", fontsize="small")
    if picture is not None:
        first, last = np.ceil(np.log10([faint_mjy, picture.norm.vmax]))
        ticks = [0, *10.0 ** np.arange(first, last)]
        figure.colorbar(picture, ax=panels, label="mJy/beam", shrink=0.8, ticks=ticks, format="%g")
    return to_png(figure)


def draw_planes(result: CubeResult) -> bytes:
    """Draw noise, peak and beam against the number of the plane."""
    figure = Figure(figsize=(8, 5), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    numbers = [plane.index for plane in result.planes]
    upper.plot(numbers, [1e3 * p.noise_jy for p in result.planes], ".-", label="noise (robust)")
    upper.plot(numbers, [1e3 * p.peak_jy for p in result.planes], ".-", lw=0.8, label="peak")
    upper.set_ylabel("mJy/beam")
    upper.set_yscale("log")
    for name, label in (("bmaj_rad", "major axis"), ("bmin_rad", "minor axis")):
        sizes = [getattr(p.beam, name) * _ARCSEC if p.beam else np.nan for p in result.planes]
        lower.plot(numbers, sizes, ".-", label=label)
    lower.set(xlabel="plane", ylabel="beam [arcsec]")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        axes.legend(frameon=False, fontsize="small")
    return to_png(figure)


def _thinned(pixels: np.ndarray) -> np.ndarray:
    step = -(-len(pixels) // MAP_NPIXEL)
    n = len(pixels) // step
    blocks = pixels[: n * step, : n * step].reshape(n, step, n, step)
    return np.asarray(blocks.max(axis=(1, 3)))


def _position(index: int, header: ImageHeader) -> str:
    if header.time_mjd_s is not None:
        return f"{header.time_mjd_s[index].mean() - header.start_mjd_s:.6g} s"
    return f"{header.freq_hz[index] / 1e6:.6f} MHz"


def _row(plane: PlaneResult, header: ImageHeader) -> str:
    bad = "" if plane.outcome is Outcome.OK else ' class="bad"'
    cells = "".join(f"<td>{cell}" for cell in _cells(plane, header))
    remark = "cleaned gently" if plane.gently else plane.reason
    return f'<tr{bad}>{cells}<td class="words">{html.escape(remark)}'


def _cells(plane: PlaneResult, header: ImageHeader) -> Iterator[str]:
    yield str(plane.index)
    yield _position(plane.index, header)
    yield plane.outcome
    yield f"{plane.noise_jy:.4g}" if plane.beam else "–"
    yield f"{plane.peak_jy:.4g}" if plane.beam else "–"
    yield (
        f"{plane.beam.bmaj_rad * _ARCSEC:.4g}″ × {plane.beam.bmin_rad * _ARCSEC:.4g}″"
        if plane.beam
        else "–"
    )
    yield str(plane.iterations)


def picture(png: bytes, title: str) -> str:
    """Return a section of a page with a picture in it."""
    data = base64.b64encode(png).decode("ascii")
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'
