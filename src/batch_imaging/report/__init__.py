"""What a user sees after a run: pictures, a page, numbers, provenance, data-product metadata."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batch_imaging.io.fits_image import publishing
from batch_imaging.report.data_product import complete_products, declare_products
from batch_imaging.report.fingerprint import take_fingerprints
from batch_imaging.report.provenance import make_provenance, write_provenance
from batch_imaging.report.run_record import RunRecord

__all__ = ["RunRecord", "declare_products", "write_report"]

FOLDER = "report"


def write_report(run: RunRecord) -> Path:
    """Write everything there is to say about a run beside its images and return the page.

    ``report/`` gets index.html, summary.json and a PNG for each picture; provenance.json and
    ska-data-product.yaml stand in the image buffer itself. A run that ended early is reported as
    far as it came.

    Raises
    ------
    ProductError: a file could not be written.
    """
    # Matplotlib takes half a second to import: not before there is something to draw.
    from batch_imaging.report.html import render_report
    from batch_imaging.report.pictures import draw_pictures
    from batch_imaging.report.summary import make_summary, measure_run

    images = run.buffers.img
    folder = images / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as beside:  # the second core is idle by now
        hashing = beside.submit(take_fingerprints, [*_products(run), *run.input_sets])
        quality = measure_run(run)
        pictures = tuple(draw_pictures(run, quality))
        fingerprints = hashing.result()
    for picture in pictures:
        _write(folder / f"{picture.name}.png", picture.png)
    summary = json.dumps(make_summary(run, quality), indent=1) + "\n"
    _write(folder / "summary.json", summary.encode())
    page = folder / "index.html"
    _write(page, render_report(run, quality, pictures, fingerprints).encode())
    provenance = write_provenance(images, make_provenance(run, fingerprints))
    written = take_fingerprints([page, folder / "summary.json", provenance])
    complete_products(run, images, fingerprints | written)
    return page


def _products(run: RunRecord) -> list[Path]:
    """Return what this run made; an earlier one may have left more in the same folders."""
    made = (run.result.ical, run.result.spectral, run.result.simulation)
    images = run.result.line.files if run.result.line else ()
    return [*images, *(path for result in made if result for path in result.files.values())]


def _write(path: Path, content: bytes) -> None:
    with publishing(path) as partial:
        partial.write_bytes(content)
