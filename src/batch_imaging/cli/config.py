"""Commands that look into the configuration database, and change it by hand.

Where the database is stands in SDP_CONFIG_HOST, SDP_CONFIG_PORT and so on.
"""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batch_imaging.errors import ConfigVanished, ControlError, ParameterError

if TYPE_CHECKING:
    from batch_imaging.control.config import Config, Transaction

app = typer.Typer(
    help="Look into the configuration database, and change it by hand.",
    rich_markup_mode=None,
)


def _check_path(path: str) -> str:
    if not path.startswith("/"):
        raise typer.BadParameter(f"{path}: a path starts with '/', as in /pb")
    return path.rstrip("/")


def _check_workflow(name: str) -> str:
    words = name.split(":")
    is_name = len(words) == 3 and all(re.fullmatch(r"[A-Za-z0-9_.\-]+", each) for each in words)
    if not is_name or words[0] not in {"realtime", "batch"}:
        raise typer.BadParameter(
            f"{name}: must be TYPE:ID:VERSION with the type realtime or batch, of letters, digits, "
            "'_', '-' and '.', as in batch:batch_imaging:0.1.0"
        )
    return name


EntryPath = Annotated[str, typer.Argument(metavar="PATH", help="As in /pb.", callback=_check_path)]
Recursive = Annotated[bool, typer.Option("--recursive", "-R", help="All that is below it, too.")]


@app.command("list")
def list_entries(
    path: EntryPath = "/",
    recursive: Recursive = False,
    values: Annotated[bool, typer.Option("--values", help="With a tab and the JSON.")] = False,
) -> None:
    """Print the paths right under a path; those that are no entries themselves end in '/'.

    \b
    Examples:
      batch-imaging config list
      batch-imaging config list /pb -R
      batch-imaging config list /deploy -R --values
    """
    from batch_imaging.control.standalone.connection import find_config

    with find_config() as config:
        for txn in config.txn():
            entries = _paths_below(txn, path)
            shown = entries if recursive else _children(path, entries)
            lines = [
                _line(each, txn.raw.value(each)) if values and not each.endswith("/") else each
                for each in shown
            ]
    for line in lines:
        typer.echo(line)


@app.command()
def get(path: EntryPath) -> None:
    """Print an entry as it is stored.

    \b
    Example:
      batch-imaging config get /pb/pb-mvp01-20200523-00001/state
    """
    from batch_imaging.control.standalone.connection import find_config

    with find_config() as config:
        for txn in config.txn():
            value = txn.raw.value(path) if path else None
    if value is None:
        raise ConfigVanished(path or "/", "there is no such entry (config list shows what is)")
    typer.echo(value)


@app.command()
def watch(path: EntryPath = "/") -> None:
    """Print what changes at and below a path, until Ctrl-C: the path, a tab, and its JSON.

    The JSON of an entry that was deleted is null.

    \b
    Example:
      batch-imaging config watch /pb/pb-mvp01-20200523-00001
    """
    from batch_imaging.control.standalone.connection import find_config

    with find_config() as config, config.follow() as follower:
        typer.echo(f"watching {path or '/'}", err=True)
        while True:
            follower.wait(timeout_s=60)
            for changed in sorted(follower.changed):
                if changed == path or changed.startswith(f"{path}/"):
                    typer.echo(_line(changed, follower.view.value(changed)))


@app.command()
def create(
    kind: Annotated[Literal["pb"], typer.Argument(metavar="pb", help="A processing block.")],
    workflow: Annotated[
        str,
        typer.Argument(metavar="TYPE:ID:VERSION", help="Which workflow.", callback=_check_workflow),
    ],
    parameters: Annotated[
        str, typer.Argument(metavar="PARAMS", help="JSON, @FILE, or - for stdin.")
    ] = "{}",
    *,
    sbi: Annotated[
        str | None, typer.Option(metavar="ID", help="Scheduling block it belongs to.")
    ] = None,
    dependencies: Annotated[
        list[str] | None,
        typer.Option("--dependency", metavar="PB_ID", help="To finish first; may be repeated."),
    ] = None,
) -> None:
    """Create a processing block, and print its id.

    \b
    Examples:
      batch-imaging config create pb batch:batch_imaging:0.1.0
      batch-imaging config create pb batch:batch_imaging:0.1.0 '{"nfreqwin": 2}'
      batch-imaging config create pb batch:batch_imaging:0.1.0 @params.json \\
          --sbi sbi-mvp01-20200523-00000 --dependency pb-mvp01-20200523-00000
    """
    from batch_imaging.control.config.entities import Dependency, ProcessingBlock, WorkflowName
    from batch_imaging.control.config.reader import pb_path, sb_path
    from batch_imaging.control.standalone.connection import find_config

    name = WorkflowName(**dict(zip(("type", "id", "version"), workflow.split(":"), strict=True)))
    checked = _read_parameters(name.id, parameters)
    with find_config() as config:
        for txn in config.txn():
            if sbi is not None and txn.raw.value(sb_path(sbi)) is None:
                raise ConfigVanished(sb_path(sbi), "there is no such scheduling block")
            for needed in dependencies or ():
                if txn.raw.value(pb_path(needed)) is None:
                    raise ConfigVanished(pb_path(needed), "there is no such processing block")
            block = ProcessingBlock(
                id=txn.new_processing_block_id("config"),
                sbi_id=sbi,
                workflow=name,
                parameters=checked,
                dependencies=[
                    Dependency(pb_id=needed, type=["none"]) for needed in dependencies or ()
                ],
            )
            txn.create_processing_block(block)
    typer.echo(block.id)


@app.command()
def delete(
    target: Annotated[
        str, typer.Argument(metavar="pb|deploy|sb|PATH", help="Kind of the entry, or its path.")
    ],
    entry_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of that kind; goes with all below it.")
    ] = None,
    recursive: Recursive = False,
) -> None:
    """Delete an entry, and print the paths of what is gone.

    \b
    Examples:
      batch-imaging config delete pb pb-mvp01-20200523-00001
      batch-imaging config delete deploy proc-pb-mvp01-20200523-00001-dask
      batch-imaging config delete /workflow -R
    """
    from batch_imaging.control.standalone.connection import find_config

    is_path, is_kind = target.startswith("/"), target in {"pb", "deploy", "sb"}
    if not (is_path if entry_id is None else is_kind):
        raise typer.BadParameter(f"{target}: must be pb, deploy or sb with an ID, or a PATH")
    if entry_id is None:
        with find_config() as config:
            for gone in _delete(config, _check_path(target), recursive):
                typer.echo(gone)
        return
    path = f"/{target}/{entry_id}"
    with find_config() as config:
        for txn in config.txn():
            txn.raw.delete(path, recurse=True)
    typer.echo(path)


@app.command()
def cancel(
    kind: Annotated[Literal["pb"], typer.Argument(metavar="pb", help="A processing block.")],
    pb_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    reason: Annotated[
        str, typer.Option(help="Written into the state.")
    ] = "cancelled by the operator",
) -> None:
    """Cancel a processing block: its script ends, and what it has deployed is removed.

    \b
    Example:
      batch-imaging config cancel pb pb-mvp01-20200523-00001 --reason 'wrong field'
    """
    from batch_imaging.control.config.entities import ProcessingBlockState, Status
    from batch_imaging.control.config.reader import pb_path
    from batch_imaging.control.standalone.connection import find_config

    cancelled = {"status": Status.CANCELLED, "reason": reason}
    with find_config() as config:
        for txn in config.txn():
            if txn.raw.value(pb_path(pb_id)) is None:
                raise ConfigVanished(pb_path(pb_id), "there is no such processing block")
            state = txn.get_processing_block_state(pb_id)
            if state is None:
                new = ProcessingBlockState.model_validate(cancelled)
                txn.create_processing_block_state(pb_id, new)
            elif state.status.ended:
                raise ControlError(f"{pb_id}: cannot be cancelled, it is {state.status} already")
            else:
                state = state.without("stage", "fraction").model_copy(update=cancelled)
                txn.update_processing_block_state(pb_id, state)


def _paths_below(txn: "Transaction", path: str) -> list[str]:
    from batch_imaging.control.config.transaction import BELOW

    return txn.raw.list_keys(f"{path}/", BELOW)


def _children(path: str, below: list[str]) -> list[str]:
    """Return the paths one level under a path, of all that are below it."""
    entries = set(below)
    depth = path.count("/") + 2
    children = {"/".join(each.split("/")[:depth]) for each in below}
    return sorted(child if child in entries else f"{child}/" for child in children)


def _line(path: str, value: bytes | None) -> str:
    """Return a path and its value on one line; a value that is not JSON becomes a string of it."""
    try:
        shown = json.loads(value or b"null")
    except ValueError:
        shown = (value or b"").decode(errors="replace")
    return f"{path}\t{json.dumps(shown, ensure_ascii=False)}"


def _delete(config: "Config", path: str, recursive: bool) -> list[str]:
    """Delete in one small transaction per entry: etcd limits the size of each."""
    for txn in config.txn():
        there = bool(path) and txn.raw.value(path) is not None
        doomed = [path] if there else []
        if recursive:
            doomed += _paths_below(txn, path)
    if not doomed:
        hint = "" if recursive else "; -R deletes what is below it"
        raise ConfigVanished(path or "/", f"does not exist, so it cannot be deleted{hint}")
    for each in doomed:
        for txn in config.txn():
            if txn.raw.value(each) is not None:
                txn.raw.delete(each)
    return doomed


def _read_parameters(workflow_id: str, argument: str) -> dict[str, Any]:
    """Return the parameters as they were written, those of batch_imaging checked.

    Raises
    ------
    ParameterError: they cannot be read, are not a JSON object or not right.
    """
    from batch_imaging.control.config.encoding import to_value
    from batch_imaging.parameters import load_parameters

    text = argument
    if argument == "-":
        text = sys.stdin.read()
    elif argument.startswith("@"):
        try:
            text = Path(argument[1:]).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ParameterError(f"{argument[1:]}: cannot be read: {error}") from error
    if workflow_id == "batch_imaging":
        load_parameters(text)
    try:
        parameters = json.loads(text)
        to_value(parameters)  # NaN can be read, but not be stored
    except ValueError as error:
        raise ParameterError(f"parameters: not valid JSON: {error}") from error
    if not isinstance(parameters, dict):
        raise ParameterError("parameters: must be a JSON object, {…}")
    return parameters
