"""Commands about the control system on this machine, and about what is in its database."""

import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batch_imaging.errors import ControlError, DataError, ParameterError

if TYPE_CHECKING:
    from batch_imaging.cli.entries import Kind
    from batch_imaging.control.config import Follower, View
    from batch_imaging.control.standalone.system import System

FolderOption = Annotated[
    Path | None,
    typer.Option(
        help="Directory of the system; default: $BATCH_IMAGING_FOLDER, or one in ~/.local/state."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]

POLL_S = 0.25
"""Between two looks at a log that grows."""


def up(
    folder: FolderOption = None,
    subarrays: Annotated[
        int | None, typer.Option(min=1, max=16, help="Number of subarrays; at first 1.")
    ] = None,
    max_workers: Annotated[
        int | None, typer.Option(min=1, help="Dask workers of all running blocks together.")
    ] = None,
    max_buffers: Annotated[
        str | None, typer.Option(help="Size of all buffers together, as in 500Gi.")
    ] = None,
    new_ports: Annotated[
        bool, typer.Option("--new-ports", help="Choose other ports, if another program has ours.")
    ] = False,
) -> None:
    """Start the control system on this machine, or what of it does not run.

    \b
    Examples:
      batch-imaging up
      batch-imaging up --folder control --subarrays 2 --max-workers 8 --max-buffers 500Gi
    """
    from batch_imaging.control.config.quantity import parse_quantity
    from batch_imaging.control.standalone.folder import Folder
    from batch_imaging.control.standalone.system import up as start

    try:
        parse_quantity("0" if max_buffers is None else max_buffers)
    except ValueError as error:
        raise ParameterError(f"--max-buffers: {error}") from error
    given = {"subarrays": subarrays, "max_workers": max_workers, "max_buffers": max_buffers}
    begin = time.monotonic()
    options = {name: value for name, value in given.items() if value is not None}
    system, started = start(Folder.at(folder), new_ports, **options)
    if started:
        typer.echo(f"Started {', '.join(started)} in {time.monotonic() - begin:.1f} s.")
    else:
        typer.echo("Everything runs already.")
    typer.echo(_how_to_connect(system))


def down(folder: FolderOption = None) -> None:
    """Stop the control system and all it has deployed; data and logs stay.

    \b
    Example:
      batch-imaging down
    """
    from batch_imaging.control.standalone.folder import Folder
    from batch_imaging.control.standalone.system import down as stop

    place = Folder.at(folder)
    stopped = stop(place)
    typer.echo(f"Stopped {', '.join(stopped)}." if stopped else f"Nothing runs in {place}.")


def status(
    folder: FolderOption = None,
    as_json: AsJson = False,
    export: Annotated[
        bool, typer.Option("--export", help="Lines for a shell to evaluate, instead.")
    ] = False,
) -> None:
    """Say what runs; ends with 0 if everything does, else with 1.

    \b
    Examples:
      batch-imaging status
      eval "$(batch-imaging status --export)"
    """
    from batch_imaging.cli.tables import show_table
    from batch_imaging.control.standalone.folder import Folder
    from batch_imaging.control.standalone.service import running_services
    from batch_imaging.control.standalone.system import System

    place = Folder.at(folder)
    system = System.of(place)
    if system is None:
        typer.echo(f"Nothing was ever started in {place}; `batch-imaging up` does.", err=True)
        raise typer.Exit(1)
    if export:
        typer.echo(_export_lines(system))
        return
    running = running_services(place)
    services = system.services()
    shown = {
        name: {
            "state": "running" if name in running else "stopped",
            "pid": running[name].pid if name in running else None,
            "address": service.address,
            "log": str(place.log(name)),
        }
        for name, service in services.items()
    }
    blocks = _count_blocks(system) if "etcd" in running else None
    if as_json:
        typer.echo(_json({"folder": str(place), "services": shown, "blocks": blocks}))
    else:
        rows = [
            [name, *("" if v is None else str(v) for v in each.values())]
            for name, each in shown.items()
        ]
        show_table(("SERVICE", "STATE", "PID", "ADDRESS", "LOG"), rows)
        if blocks is not None:
            counts = ", ".join(f"{n} {name}" for name, n in blocks.items()) or "none"
            typer.echo(f"\nProcessing blocks: {counts}")
    if services.keys() - running.keys():
        raise typer.Exit(1)


def logs(
    name: Annotated[
        str, typer.Argument(metavar="PB_ID", help="A processing block, or a service's name.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the block has ended.")
    ] = False,
    folder: FolderOption = None,
) -> None:
    """Print the log of a block's script, or of a service.

    \b
    Examples:
      batch-imaging logs pb-mvp01-20200523-00001 --follow
      batch-imaging logs controller
    """
    from batch_imaging.control.standalone.connection import find_config
    from batch_imaging.control.standalone.folder import Folder
    from batch_imaging.control.standalone.system import System

    place = Folder.at(folder)
    system = System.of(place)
    if system and name in system.services():
        _print_growing(place.log(name), _never() if follow else iter([True]))
        return
    with find_config(folder) as config, config.follow() as follower:
        path = _script_log(follower, name, place.logs, follow)
        _print_growing(path, _has_ended(follower, name) if follow else iter([True]))


def get(
    kind: Annotated[
        Literal["all", "subarray", "sb", "pb", "deploy"], typer.Argument(metavar="[KIND]")
    ] = "all",
    entry_id: Annotated[str | None, typer.Argument(metavar="[ID]")] = None,
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with what changes, until Ctrl-C.")
    ] = False,
    folder: FolderOption = None,
) -> None:
    """Show subarrays, scheduling blocks (sb), processing blocks (pb) and deployments (deploy).

    \b
    Examples:
      batch-imaging get
      batch-imaging get pb --watch
      batch-imaging get pb pb-mvp01-20200523-00001 --json
    """
    from batch_imaging.cli.entries import KINDS, Kind
    from batch_imaging.cli.tables import show_table
    from batch_imaging.control.standalone.connection import find_config

    kinds: dict[str, Kind] = KINDS if kind == "all" else {kind: KINDS[kind]}
    with find_config(folder) as config, config.follow() as follower:
        view = follower.view
        found = {
            name: [each for each in a_kind.ids(view) if entry_id in {None, each}]
            for name, a_kind in kinds.items()
        }
        if entry_id and not any(found.values()):
            raise ControlError(f"{entry_id}: there is no such entry; `batch-imaging get` shows all")
        if as_json:
            objects: Any = {
                name: [kinds[name].as_object(view, each) for each in ids]
                for name, ids in found.items()
            }
            typer.echo(_json(objects if kind == "all" else objects[kind]))
        else:
            shown = {name: ids for name, ids in found.items() if ids or kind != "all"}
            for position, (name, ids) in enumerate(shown.items()):
                typer.echo("\n" if position else "", nl=False)
                show_table(kinds[name].columns, [kinds[name].cells(view, each) for each in ids])
        while watch:
            follower.wait(3600.0)
            for a_kind in kinds.values():
                for each in a_kind.ids_in(follower.changed):
                    if entry_id in {None, each} and f"{a_kind.folder}{each}" in view:
                        _print_change(a_kind, view, each, as_json)


def _print_change(kind: "Kind", view: "View", entry_id: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(kind.as_object(view, entry_id), ensure_ascii=False))
    else:
        typer.echo("  ".join(cell for cell in kind.cells(view, entry_id) if cell))


def _how_to_connect(system: "System") -> str:
    folder = system.folder
    option = (
        "" if folder.path == type(folder).at().path else f" --folder {shlex.quote(str(folder))}"
    )
    return f"""
To connect from this shell:
  eval "$(batch-imaging status --export{option})"
which is
{_indented(_export_lines(system))}

Logs:     {folder.logs}
Buffers:  {folder.buffers}

Next:
  itango3                                 # d = DeviceProxy('mid_sdp/elt/subarray_1')
  python tango_scripts/assign_resources.py
  batch-imaging get{option}
  batch-imaging down{option}"""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _export_lines(system: "System") -> str:
    return "\n".join(
        f"export {name}={shlex.quote(value)}" for name, value in system.exports.items()
    )


def _count_blocks(system: "System") -> dict[str, int]:
    with system.config() as config, config.follow() as follower:
        view = follower.view
        states = [view.get_processing_block_state(each) for each in view.list_processing_blocks()]
    return dict(Counter(str(state.status) if state else "NEW" for state in states))


def _script_log(follower: "Follower", pb_id: str, logs_folder: Path, wait: bool) -> Path:
    """Return the log of a block's script; with ``wait``, wait for it until the block has ended."""
    from batch_imaging.control.config.entities import workflow_deployment_id

    deploy_id = workflow_deployment_id(pb_id)
    guess = logs_folder / f"{deploy_id}.log"
    while True:
        view = follower.view
        deployed = view.get_deployment_state(deploy_id)
        for path in (Path(deployed.log) if deployed and deployed.log else guess, guess):
            if os.path.exists(path):  # False, too, where the name is too long for a file
                return path
        if view.get_processing_block(pb_id) is None:
            raise ControlError(
                f"{pb_id}: neither a processing block nor a service; "
                "`batch-imaging get pb` and `batch-imaging status` list them"
            )
        state = view.get_processing_block_state(pb_id)
        if not wait or (state and state.status.ended):
            raise ControlError(
                f"{pb_id}: its script has written no log; its state is "
                f"{state.status if state else 'not set'}: {(state and state.reason) or 'no reason'}"
            )
        follower.wait(POLL_S)


def _has_ended(follower: "Follower", pb_id: str) -> Iterator[bool]:
    """Say again and again whether a script is done with its block; gone counts as done."""
    while True:
        view = follower.view
        state = view.get_processing_block_state(pb_id)
        yield (state is None or state.status.ended) and not view.get_processing_block_owner(pb_id)
        follower.wait(POLL_S)


def _never() -> Iterator[bool]:
    while True:
        yield False
        time.sleep(POLL_S)


def _print_growing(path: Path, ended: Iterator[bool]) -> None:
    """Print a file and what is added to it, until ``ended`` yields True."""
    try:
        with path.open(errors="replace") as log:
            for is_last in ended:
                typer.echo(log.read(), nl=False)
                if is_last:
                    return
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
