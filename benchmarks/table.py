"""Results as aligned text, as Markdown and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one benchmark; numbers keep their digits until they are shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __str__(self) -> str:
        texts = [self.columns, *(tuple(map(_shown, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in texts
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([self.title, "=" * len(self.title), *lines, *filter(None, [self.note])])

    def to_markdown(self) -> str:
        texts = [self.columns, ("---", *["---:"] * (len(self.columns) - 1))]
        texts += [tuple(map(_shown, row)) for row in self.rows]
        lines = ["| " + " | ".join(row) + " |" for row in texts]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def to_record(self) -> dict[str, Any]:
        """Return what stands in the JSON file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A figure with its goal, an upper limit or, if ``at_least``, a lower one, and a peer's."""

    what: str
    value: float | None
    unit: str
    goal: float | None = None
    peer: float | None = None
    at_least: bool = False

    def times_better_than(self, other: float | None) -> float | None:
        """Return how many times better the value is; below 1 it is worse."""
        if self.value is None or self.value <= 0 or not other:
            return None
        return self.value / other if self.at_least else other / self.value


def tabulate(title: str, measurements: Iterable[Measurement], peer: str, note: str = "") -> Table:
    """Return measurements beside their goals and the figures of ``peer``, if there is one."""
    rows = tuple(
        (
            m.what,
            m.value,
            m.unit,
            None if m.goal is None else f"{'≥' if m.at_least else '≤'} {_shown(m.goal)}",
            m.times_better_than(m.goal),
            m.peer,
            m.times_better_than(m.peer),
        )
        for m in measurements
    )
    columns = ("what", "measured", "unit", "goal", "better ×", peer, "better × ")
    shown = len(columns) if peer else columns.index(peer)
    return Table(title, columns[:shown], tuple(row[:shown] for row in rows), note)


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or 1000 <= abs(cell) < 1e6:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def markdown_page(title: str, introduction: Sequence[str], tables: Iterable[Table]) -> str:
    """Return a page of tables."""
    parts = [f"# {title}", "\n".join(introduction), *(table.to_markdown() for table in tables)]
    return "\n\n".join(parts) + "\n"
