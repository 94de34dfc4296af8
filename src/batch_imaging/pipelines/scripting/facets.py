"""Images cut into facets and put together again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import ParameterError
from batch_imaging.model.image import Image
from batch_imaging.pipelines.scripting.keywords import require_one_of

Pixels = NDArray[np.floating]
Taper = Literal["tukey", "linear", "quadratic"]

_RAMPS = {
    "tukey": lambda t: np.sin(np.pi / 2 * t) ** 2,
    "linear": lambda t: t,
    "quadratic": lambda t: t**2,
}


@dataclass(frozen=True, slots=True)
class FacetLayout:
    """``facets`` × ``facets`` squares, each with ``overlap`` pixels more on all its sides.

    All facets of an image have one size, an even number of pixels: beyond the image are zeros.
    ``taper`` is the share of a facet in what it has in common with its neighbours, from 0 at its
    edge to 1 where they end; None: all have the same.
    """

    facets: int = 1
    overlap: int = 0
    taper: Taper | None = None

    def __post_init__(self) -> None:
        if self.facets < 1 or self.overlap < 0:
            raise ParameterError(
                f"{self.facets} facets a side with an overlap of {self.overlap} pixels: there must "
                "be at least one, and no overlap is 0"
            )
        if self.taper is not None:
            require_one_of("facet taper", self.taper, _RAMPS)

    @property
    def margin(self) -> int:
        """Pixels that a facet has beside its own; a single one has none."""
        return self.overlap if self.facets > 1 else 0

    def side(self, npixel: int) -> int:
        """Return the side of a facet without its margins, pixels.

        Raises
        ------
        ParameterError: the margins would reach beyond a facet's neighbours.
        """
        side = 2 * -(-npixel // (2 * self.facets))
        if 2 * self.margin > side:
            raise ParameterError(
                f"an overlap of {self.overlap} pixels is more than half of a facet of {side}; "
                f"take {side // 2} or less, or fewer facets"
            )
        return side

    def cut(self, planes: Pixels) -> list[Pixels]:
        """Return the facets (plane, row, column) of planes (plane, npixel, npixel), row by row."""
        npixel = planes.shape[-1]
        side, margin = self.side(npixel), self.margin
        after = margin + side * self.facets - npixel
        padded = np.pad(planes, ((0, 0), (margin, after), (margin, after)))
        size = side + 2 * margin
        return [
            np.ascontiguousarray(padded[:, row : row + size, column : column + size])
            for row, column in self._corners(side)
        ]

    def join(self, parts: Sequence[Pixels], npixel: int) -> Pixels:
        """Return planes of which each facet holds its share: what :meth:`cut` took apart."""
        window = self._window(self.side(npixel))
        share = self.add_up([window[np.newaxis]] * len(parts), npixel)
        return self.add_up([part * window for part in parts], npixel) / share

    def add_up(self, parts: Sequence[Pixels], npixel: int) -> Pixels:
        """Return the sum of facets with margins as wide as they come, each put in its place."""
        side = self.side(npixel)
        n_planes, size = len(parts[0]), parts[0].shape[-1]
        margin = (size - side) // 2
        whole = side * self.facets + 2 * margin
        total = np.zeros((n_planes, whole, whole), dtype=np.result_type(*parts))
        for part, (row, column) in zip(parts, self._corners(side), strict=True):
            total[:, row : row + size, column : column + size] += part
        return total[:, margin : margin + npixel, margin : margin + npixel]

    def _corners(self, side: int) -> list[tuple[int, int]]:
        starts = range(0, side * self.facets, side)
        return [(row, column) for row in starts for column in starts]

    def _window(self, side: int) -> NDArray[np.float32]:
        size = side + 2 * self.margin
        edge = np.ones(size)
        if self.taper is not None and self.margin:
            steps = (np.arange(size) + 0.5) / (2 * self.margin)
            edge = _RAMPS[self.taper](np.minimum(1, np.minimum(steps, steps[::-1])))
        return np.outer(edge, edge).astype(np.float32)


def image_scatter_facets(
    image: Image, facets: int = 1, overlap: int = 0, taper: Taper | None = None
) -> list[Pixels]:
    """Return the pixels of an image's facets, (chan, row, column) each, row by row."""
    return FacetLayout(facets, overlap, taper).cut(image.data[:, 0])


def image_gather_facets(
    parts: Sequence[Pixels],
    template: Image,
    facets: int = 1,
    overlap: int = 0,
    taper: Taper | None = None,
) -> Image:
    """Return the image that facets make, with the field and frequencies of ``template``."""
    planes = FacetLayout(facets, overlap, taper).join(parts, template.geometry.npixel)
    return template.with_data(planes[:, np.newaxis])
