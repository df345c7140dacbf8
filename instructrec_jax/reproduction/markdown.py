"""The report in Markdown."""

from collections.abc import Sequence

from instructrec_jax.reproduction.sections import Grid, Section


def markdown(
  title: str, notes: Sequence[str], sections: Sequence[Section]
) -> str:
  """Returns all sections; figures are the HTML report's."""
  blocks = [f"# {title}", *notes]
  for section in sections:
    blocks.append(f"## {section.title}: {section.caption}".removesuffix(": "))
    blocks += [_grid(grid) for grid in section.grids]
    if section.lacking:
      blocks.append("\n".join(f"- lacking: {what}" for what in section.lacking))
  return "\n\n".join(blocks) + "\n"


def _grid(grid: Grid) -> str:
  ruler = ["---", *["---:"] * (len(grid.columns) - 1)]
  lines = [grid.columns, ruler, *(row.cells for row in grid.rows)]
  text = [f"### {grid.heading}", ""] if grid.heading else []
  text += ["| " + " | ".join(map(_escaped, line)) + " |" for line in lines]
  if grid.remarks:
    text += ["", *(f"- {remark}" for remark in grid.remarks)]
  return "\n".join(text)


def _escaped(cell: str) -> str:
  return cell.replace("|", "\\|")
