"""What a script or notebook shows of an image: its statistics and a picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batch_imaging.model.image import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Statistics of all pixels of an image, by RASCIL's names; the rms is about the mean.

    Attributes
    ----------
    data: shape, max, min, maxabs, rms, sum, medianabs, medianabsdevmedian, median.
    context: what the image is.
    """

    data: dict[str, tuple[int, ...] | float]
    context: str = ""

    def __str__(self) -> str:
        lines = (f"    {name}: {value}" for name, value in self.data.items())
        return "\n".join((f"{self.context or 'image'}:", *lines))


def qa_image(im: Image, context: str = "") -> ImageStatistics:
    """Return the statistics of an image, to print or to look up in ``data``."""
    pixels = im.data
    median = float(np.median(pixels))
    data: dict[str, tuple[int, ...] | float] = {
        "shape": pixels.shape,
        "max": float(pixels.max()),
        "min": float(pixels.min()),
        "maxabs": float(np.abs(pixels).max()),
        "rms": float(pixels.std(dtype=float)),
        "sum": float(pixels.sum(dtype=float)),
        "medianabs": float(np.median(np.abs(pixels))),
        "medianabsdevmedian": float(np.median(np.abs(pixels - median))),
        "median": median,
    }
    return ImageStatistics(data, context)


def show_image(
    im: Image,
    fig: "Figure | None" = None,
    title: str = "",
    pol: int = 0,
    chan: int = 0,
    cm: str = "Greys",
    vmin: float | None = None,
    vmax: float | None = None,
) -> "Figure":
    """Draw a plane of an image, in degrees from the phase centre, on a figure of pyplot.

    Parameters
    ----------
    fig: to draw on; None: a new one.
    cm: colour map. vmin, vmax: pixels that are shown in its first and last colour.
    """
    import matplotlib.pyplot as plt

    fig = fig or plt.figure(figsize=(6, 5))
    axes = fig.add_subplot()
    half_deg = np.rad2deg(im.geometry.npixel * im.geometry.cell_rad / 2)
    drawn = axes.imshow(
        im.data[chan, pol],
        origin="lower",
        cmap=cm,
        vmin=vmin,
        vmax=vmax,
        extent=(half_deg, -half_deg, -half_deg, half_deg),
    )
    axes.set(title=title, xlabel="east offset [deg]", ylabel="north offset [deg]")
    fig.colorbar(drawn, label="Jy" if im.beams is None else "Jy/beam")
    return fig
