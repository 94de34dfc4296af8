"""The command that copies products out of a buffer in a Kubernetes cluster."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

LINE_S = 5.0
"""Between two lines about the progress, where there is no terminal."""


def fetch(
    buffer: Annotated[str, typer.Argument(metavar="BUFFER", help="A buffer, or any claim.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to copy into.")],
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Default: $SDP_HELM_NAMESPACE, or sdp."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only files or folders that match; may be repeated."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Of the pod; default: that of our workloads there.")
    ] = None,
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds that all may take; then the pod ends.")
    ] = 6 * 3600,
) -> None:
    """Copy products out of a buffer in a cluster, by kubectl and a short-lived pod.

    Every file is compared with its checksum. What is there already and equal is not copied again.

    \b
    Examples:
      batch-imaging fetch buff-pb-mvp01-20200523-00001-img products
      batch-imaging fetch buff-pb-mvp01-20200523-00001-vis sets -n sdp --include '*.ms'
    """
    from batch_imaging.control.config.quantity import quantity_text
    from batch_imaging.control.fetch import FetchPod, Kubectl
    from batch_imaging.control.fetch import fetch as copy

    kubectl = Kubectl(namespace or os.environ.get("SDP_HELM_NAMESPACE", "sdp"))
    with FetchPod(kubectl, buffer, image, timeout) as pod, _progress() as told:
        fetched = copy(pod, destination, include or (), told)
    for path, reason in fetched.refused.items():
        typer.echo(f"warning: {path}: {reason}; it was not copied", err=True)
    typer.echo(
        f"Copied {fetched.n_copied} of {len(fetched.products)} products "
        f"({quantity_text(fetched.copied_bytes)}B); what was there already is the same.",
        err=True,
    )
    for product in fetched.products:
        typer.echo(product)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows how far a copy is: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bars:
        tasks = {what: bars.add_task(what, visible=False) for what in ("comparing", "copying")}
        next_line_s = time.monotonic() + LINE_S

        def told(what: str, done_bytes: int, total_bytes: int) -> None:
            nonlocal next_line_s
            bars.update(tasks[what], completed=done_bytes, total=total_bytes, visible=True)
            if bars.disable and time.monotonic() >= next_line_s:
                next_line_s = time.monotonic() + LINE_S
                mib = 2**20
                typer.echo(f"{what}: {done_bytes // mib} of {total_bytes // mib} MiB", err=True)

        yield told
