"""What stands on a terminal: lines, tables, and texts that somebody else wrote, with which it does nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Table", "print_text", "shown", "shown_json", "shown_lines", "shown_text"]

# What a terminal obeys, or what turns around the order in which a line is read: control characters, separators of
# lines, marks of direction, and halves of characters. Blanks and joiners are part of how a language is written.
ORDERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

GAP = "  "  # between two columns of a table in plain text
DRAWN_GAP, DRAWN_EDGES = 3, 2  # characters, as rich draws it
NARROWEST = 24  # characters of a column that is folded


def shown(text: str) -> str:
    """Return a text that somebody else wrote so that a terminal shows it in one line, and does nothing else with it."""
    return ORDERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_text(text: str) -> str:
    """Return such a text with its own lines and tabs; where there is no terminal, as it is."""
    if not sys.stdout.isatty():
        return text
    return "\n".join("\t".join(map(shown, line.split("\t"))) for line in text.split("\n"))


def shown_json(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON that a terminal shows: what it would obey is an escape of JSON."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, ensure_ascii=not is_unicode, separators=separators)
    return re.sub(ORDERS, lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def shown_lines(text: str, indent: str = "") -> Iterator[str]:
    """Yield the lines of such a text, indented."""
    return (f"{indent}{shown(line)}".rstrip() for line in text.split("\n"))


@dataclass(frozen=True)
class Table:
    """Rows under the names of columns. Whoever makes it need not escape what stands in it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """Yield it as plain text: columns as wide as they must be."""
        rows = [[shown(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    def print_on(self, console: Console) -> None:
        """Print it as rich does; nothing in it is markup. Only the last column is folded: ids are copied from others.

        It is plain where the others leave no place for that.
        """
        from rich import box
        from rich.cells import cell_len
        from rich.table import Table as RichTable
        from rich.text import Text

        rows = [[shown(cell) for cell in row] for row in (self.columns, *self.rows)]
        *widths, last = (max(map(cell_len, column)) for column in zip(*rows, strict=True))
        if sum(widths) + DRAWN_GAP * len(widths) + DRAWN_EDGES + min(last, NARROWEST) > console.width:
            for line in self.lines():
                click.echo(line)
            return
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.columns[:-1]:
            table.add_column(Text(name), no_wrap=True)
        table.add_column(Text(self.columns[-1]), overflow="fold")
        for row in rows[1:]:
            table.add_row(*map(Text, row))
        console.print(table)


def print_text(text: Iterable[str | Table], *, no_color: bool) -> None:
    """Print lines and tables; those are drawn on a terminal if rich is there, and are plain elsewhere."""
    console = _console(no_color=no_color)
    for part in text:
        if isinstance(part, str):
            click.echo(part, color=True)  # otherwise click takes what it thinks to be colours out of what is piped
        elif console is not None:
            part.print_on(console)
        else:
            for line in part.lines():
                click.echo(line)


def _console(*, no_color: bool) -> Console | None:
    """Return what draws tables on a terminal; None if there is no terminal, or no rich."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=sys.stdout, highlight=False, no_color=no_color or None)
