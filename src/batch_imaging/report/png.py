"""Figures as PNGs."""

from io import BytesIO

from matplotlib.figure import Figure


def to_png(figure: Figure) -> bytes:
    """Return a PNG whose bytes depend on nothing but the figure."""
    stream = BytesIO()
    options = {"compress_level": 3}  # more takes longer than the drawing
    figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs=options)
    return stream.getvalue()
