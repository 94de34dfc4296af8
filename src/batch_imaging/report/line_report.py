"""report.html of a line: the page of its cube, with moment maps and spectra before and after."""

from pathlib import Path

from astropy.io import fits

from batch_imaging.io.fits_image import publishing
from batch_imaging.pipelines.line_imaging import LineResult
from batch_imaging.report.cube_pictures import draw_map, draw_spectra
from batch_imaging.report.plane_report import picture, write_plane_report

SPECTRA = "spectra.png"


def write_line_report(folder: Path, result: LineResult) -> tuple[Path, ...]:
    """Write the pictures and the page, which is the last of the paths that are returned.

    Raises
    ------
    ProductError: one could not be written.
    """
    written, sections = [], []
    for moment, path in result.moments.items():
        with fits.open(path) as hdus:
            png = draw_map(hdus[0])
        sections.append(picture(png, f"Moment {moment}"))
        written.append(_write(path.with_suffix(".png"), png))
    if result.after:
        png = draw_spectra(
            result.after, result.velocity_km_s, "velocity [km/s]", before=result.before
        )
        title = "Spectra before and after subtraction" if result.before else "Spectra"
        sections.append(picture(png, f"{title}, at the brightest positions"))
        written.append(_write(folder.absolute() / SPECTRA, png))
    return (*written, write_plane_report(folder, result.cube, sections))


def _write(path: Path, png: bytes) -> Path:
    with publishing(path) as partial:
        partial.write_bytes(png)
    return path
