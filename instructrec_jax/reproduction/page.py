"""The report as one HTML page that loads nothing."""

import pathlib
from collections.abc import Sequence
from html import escape

from instructrec_jax.evaluation import html_report
from instructrec_jax.reproduction.sections import Grid, Row, Section


def write(
  path: pathlib.Path,
  *,
  title: str,
  notes: Sequence[str],
  sections: Sequence[Section],
  training_log: pathlib.Path,
) -> None:
  """Writes the page; see `markdown.markdown`."""
  html_report.write_page(
    path,
    title=title,
    sections=[
      f"<h1>{escape(title)}</h1>",
      *(f"<p>{escape(note)}</p>" for note in notes),
      *map(_section, sections),
      html_report.training_section(training_log),
    ],
  )


def _section(section: Section) -> str:
  lacking = "".join(
    f'<p class="quiet">lacking: {escape(what)}</p>' for what in section.lacking
  )
  return (
    f"<h2>{escape(section.title)} <small>{escape(section.caption)}</small>"
    f"</h2>\n{''.join(map(_grid, section.grids))}{lacking}"
  )


def _grid(grid: Grid) -> str:
  heading = f"<h3>{escape(grid.heading)}</h3>\n" if grid.heading else ""
  heads = "".join(f"<th>{escape(column)}</th>" for column in grid.columns[1:])
  figures = "".join(f"<figure>{figure}</figure>\n" for figure in grid.figures)
  remarks = "<br>".join(map(escape, grid.remarks))
  return (
    f"{heading}{figures}"
    f'<div class="wide"><table><thead><tr><th>{escape(grid.columns[0])}</th>'
    f"{heads}</tr></thead>\n<tbody>{''.join(map(_row, grid.rows))}</tbody>"
    f'</table></div>\n<p class="quiet">{remarks}</p>\n'
  )


def _row(row: Row) -> str:
  first, *others = row.cells
  cells = "".join(map(_cell, others))
  return f'<tr class="{row.kind}"><th>{escape(first)}</th>{cells}</tr>\n'


def _cell(text: str) -> str:
  value, plus_minus, half = text.partition(" ±")
  small = f"<small>±{escape(half)}</small>" if plus_minus else ""
  return f"<td>{escape(value)}{small}</td>"
