"""Commands about buffers: which there are, who uses them, and deleting them."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from batch_imaging.cli.standalone import AsJson, FolderOption
from batch_imaging.errors import Cancelled, ParameterError

if TYPE_CHECKING:
    from batch_imaging.workflow.buffers import Buffer

app = typer.Typer(
    help="List and delete the buffers that processing blocks leave behind.",
    rich_markup_mode=None,
)


@app.command("list")
def list_buffers(folder: FolderOption = None, as_json: AsJson = False) -> None:
    """Show all buffers with their sizes, and the blocks that use or used them.

    \b
    Examples:
      batch-imaging buffers list
      batch-imaging buffers list --json
    """
    from batch_imaging.cli.tables import show_table
    from batch_imaging.control.standalone.connection import find_config
    from batch_imaging.workflow import buffers

    with find_config(folder) as config, config.follow() as follower:
        found = buffers.list_buffers(follower.view)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return
    columns = ("BUFFER", "SIZE", "CLASS", "STATUS", "RETAINED", "IN USE BY", "USED BY", "PATH")
    show_table(columns, [_row(each) for each in found])


@app.command()
def delete(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME…", help="Buffers.")] = None,
    *,
    all_unused: Annotated[
        bool, typer.Option("--all-unused", help="All that no unended block uses.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print which would be deleted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
    folder: FolderOption = None,
) -> None:
    """Delete buffers with all files in them, and print their names.

    \b
    Examples:
      batch-imaging buffers delete buff-pb-mvp01-20200523-00001-vis
      batch-imaging buffers delete --all-unused --dry-run
    """
    from batch_imaging.control.standalone.connection import find_config
    from batch_imaging.workflow import buffers

    if bool(names) == all_unused:
        raise ParameterError("either name the buffers to delete, or say --all-unused")
    with find_config(folder) as config, config.follow() as follower:
        doomed = (
            [each for each in buffers.list_buffers(follower.view) if not each.in_use_by]
            if all_unused
            else buffers.choose_buffers(follower.view, names or ())
        )
        for each in doomed:
            buffers.check_unused(each)
        if doomed and not (dry_run or yes) and sys.stdin.isatty():
            question = f"Delete {', '.join(each.name for each in doomed)} with all files?"
            if not typer.confirm(question, err=True):
                raise Cancelled("nothing was deleted")
        for each in doomed:
            if not dry_run and not buffers.delete_buffer(config, each):
                typer.echo(
                    f"{each.name}: removal was asked for; its deployer will do it "
                    "(`kubectl get pvc` shows when it is gone)",
                    err=True,
                )
            typer.echo(each.name)


def _row(buffer: "Buffer") -> list[str]:
    return [
        buffer.name,
        buffer.size,
        buffer.storage_class,
        ": ".join(filter(None, (buffer.status, buffer.reason))),
        "yes" if buffer.is_retained else "no",
        ", ".join(buffer.in_use_by),
        ", ".join(buffer.used_by),
        buffer.path,
    ]
