"""Pictures of cubes: noise and beam against channel, maps, spectra; each a PNG."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from matplotlib.figure import Figure
from numpy.typing import NDArray

from batch_imaging.report.png import to_png

if TYPE_CHECKING:
    from batch_imaging.pipelines.cubes.extraction import Spectrum
    from batch_imaging.pipelines.cubes.statistics import Statistics

DPI = 110


def draw_statistics(channels: Sequence["Statistics"], unit: str) -> bytes:
    """Draw noise and beam against channel."""
    figure = Figure(figsize=(8, 5), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    numbers = [channel.channel for channel in channels]
    upper.plot(numbers, [channel.noise for channel in channels], label="noise (robust)")
    upper.plot(numbers, [channel.std for channel in channels], label="standard deviation", lw=0.8)
    upper.set_ylabel(unit or "value")
    lower.plot(numbers, [channel.bmaj_arcsec for channel in channels], label="major axis")
    lower.plot(numbers, [channel.bmin_arcsec for channel in channels], label="minor axis")
    lower.set(xlabel="channel", ylabel="beam [arcsec]")
    for axes in (upper, lower):
        axes.legend(frameon=False, fontsize="small")
    return to_png(figure)


def draw_map(hdu: fits.PrimaryHDU) -> bytes:
    """Draw a moment map; velocities in colours that diverge."""
    from astropy.visualization.wcsaxes import WCSAxes

    from batch_imaging.pipelines.cubes.opening import quiet

    values = np.ma.masked_invalid(hdu.data)
    kind = hdu.header["BTYPE"]
    figure = Figure(figsize=(7.2, 5.2), dpi=DPI)
    with quiet():
        axes = WCSAxes(figure, (0.22, 0.12, 0.58, 0.82), wcs=WCS(hdu.header))
    figure.add_axes(axes)
    shown = values.compressed()
    low, high = np.percentile(shown, (0.5, 99.5)) if len(shown) else (0.0, 1.0)
    cmap = "RdBu_r" if kind == "Velocity" else "viridis"
    image = axes.imshow(values, origin="lower", cmap=cmap, vmin=low, vmax=high)
    axes.set(xlabel="right ascension", ylabel="declination")
    bar = figure.colorbar(image, ax=axes, cax=figure.add_axes((0.82, 0.12, 0.03, 0.82)))
    bar.set_label(f"{kind} [{hdu.header['BUNIT']}]")
    return to_png(figure)


def draw_spectra(
    spectra: Sequence["Spectrum"],
    axis: NDArray[np.float64],
    label: str,
    before: Sequence["Spectrum"] = (),
) -> bytes:
    """Draw a panel a position; beside it, those of the same positions before a subtraction."""
    columns = [before, spectra] if before else [spectra]
    figure = Figure(figsize=(8, 1.2 + 1.8 * len(spectra)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(spectra), len(columns), sharex=True, squeeze=False)
    for column, when, drawn in zip(panels.T, ("before: ", "after: "), columns, strict=False):
        for axes, spectrum in zip(column, drawn, strict=True):
            axes.step(axis, spectrum.values, where="mid")
            axes.axhline(0, color="0.7", lw=0.6)
            axes.set_ylabel(spectrum.unit)
            title = f"{when if before else ''}{spectrum.position.name}"
            axes.set_title(title, fontsize="small")
        column[-1].set_xlabel(label)
    return to_png(figure)
