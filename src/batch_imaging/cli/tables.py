"""Tables on stdout: in colour on a terminal, plain columns for programs and pipes."""

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {
    "ACTIVE": "cyan",
    "RUNNING": "cyan",
    "FINISHED": "green",
    "ON": "green",
    "FAILED": "red",
    "malformed": "red",
    "stopped": "red",
    "CANCELLED": "yellow",
}


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under the names of their columns."""
    console = Console()
    if not console.is_terminal:
        typer.echo(plain_table(columns, rows))
        return
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(cell, COLOURS.get(cell, ""), overflow="fold") for cell in row))
    console.print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines in which the cells stand under each other, two blanks between."""
    lines = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
