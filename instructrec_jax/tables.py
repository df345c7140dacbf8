"""One table for people, as Markdown and CSV; evaluation/templates has its HTML.

The first column holds names and is aligned left; all others hold figures and
are aligned right.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cell:
  """A figure with its interval, which HTML pages print smaller."""

  text: str
  small: str

  def __str__(self) -> str:
    return f"{self.text} {self.small}"


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of a table.

  Attributes:
    cells: one a column: text, a `Cell`, or for CSV also numbers.
    kind: how pages set it off: "model", or "paper" for printed numbers.
  """

  cells: Sequence[Any]
  kind: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under named columns.

  Attributes:
    columns: the names.
    rows: the lines.
    title: stands above it.
    notes: sentences below it.
    figure: an SVG of the same figures, which only pages show.
  """

  columns: Sequence[str]
  rows: Sequence[Row]
  title: str = ""
  notes: Sequence[str] = ()
  figure: str = ""

  def markdown(self) -> str:
    """Returns Markdown whose columns also line up in a terminal."""
    lines = [
      [str(cell).replace("|", "\\|") for cell in line]
      for line in (self.columns, *(row.cells for row in self.rows))
    ]
    widths = [
      # A ruler needs three characters.
      max(3, *map(len, column))
      for column in zip(*lines, strict=True)
    ]
    ruler = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    text = [f"### {self.title}", ""] if self.title else []
    for first, *others in (lines[0], ruler, *lines[1:]):
      cells = [first.ljust(widths[0])]
      cells += [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
      text.append(f"| {' | '.join(cells)} |")
    if self.notes:
      text += ["", *(f"- {note}" for note in self.notes)]
    return "\n".join(text)

  def csv(self) -> str:
    """Returns the columns and rows as RFC 4180 has it, without notes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(self.columns)
    writer.writerows(row.cells for row in self.rows)
    return text.getvalue()
