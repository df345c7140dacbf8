"""Inline SVG plots whose colours follow the page, light or dark."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Stand-ins that matplotlib accepts, for the page's CSS variables.
_PAGE_COLOURS = {
  "#010203": "var(--ink)",
  "#040506": "var(--quiet)",
  "#070809": "var(--accent)",
}
_INK, _QUIET, _ACCENT = _PAGE_COLOURS
_STYLE: dict[Any, Any] = {
  "svg.fonttype": "none",
  "svg.hashsalt": "instructrec",
  # A dollar sign in a name is a dollar sign.
  "text.parse_math": False,
  "font.size": 9,
  "text.color": _INK,
  "axes.edgecolor": _QUIET,
  "axes.labelcolor": _QUIET,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "xtick.color": _QUIET,
  "ytick.color": _QUIET,
}


@matplotlib.rc_context(_STYLE)
def interval_plot(
  intervals: Mapping[str, tuple[float, float, float]],
  *,
  label: str,
  highlight: Sequence[str] = (),
) -> str:
  """Returns an SVG with a dot and its interval for each name, top to bottom.
  Intervals are value, low, high, of a share; those to `highlight` get the
  accent colour.
  """
  figure = Figure(
    figsize=(5.2, 0.55 + 0.25 * len(intervals)), layout="constrained"
  )
  axes = figure.add_subplot()
  for row, (name, (value, low, high)) in enumerate(intervals.items()):
    colour = _ACCENT if name in highlight else _INK
    axes.plot([low, high], [row, row], color=colour, linewidth=2.2)
    axes.plot(value, row, "o", color=colour, markersize=5)
  axes.set_yticks(range(len(intervals)), list(intervals))
  axes.tick_params(axis="y", length=0, labelcolor=_INK)
  axes.set_ylim(len(intervals) - 0.5, -0.5)
  # The same on all charts, so that they can be compared at a glance.
  axes.set_xlim(0, 1)
  axes.spines["left"].set_visible(False)
  axes.grid(axis="x", color=_QUIET, alpha=0.25, linewidth=0.6)
  axes.set_xlabel(label)
  return _inline_svg(figure, alt=label)


@matplotlib.rc_context(_STYLE)
def curve_plot(
  curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, label: str
) -> str:
  """Returns an SVG of curves over training steps.
  A curve has steps and values; the last is drawn in the accent colour.
  """
  figure = Figure(figsize=(4.2, 2.5), layout="constrained")
  axes = figure.add_subplot()
  for index, (name, (steps, values)) in enumerate(curves.items()):
    colour = _ACCENT if index == len(curves) - 1 else _INK
    # A curve of few points would hide how few.
    marker = "o" if len(steps) <= 30 else ""
    axes.plot(
      steps,
      values,
      f"{marker}-",
      color=colour,
      label=name,
      linewidth=1.4,
      markersize=3,
    )
  if len(curves) > 1:
    axes.legend(frameon=False)
  axes.grid(color=_QUIET, alpha=0.25, linewidth=0.6)
  axes.locator_params(axis="x", nbins=4)
  axes.locator_params(axis="y", nbins=5)
  axes.set_xlabel("step")
  axes.set_title(label, loc="left", fontsize=9)
  return _inline_svg(figure, alt=f"{label} over training steps")


@matplotlib.rc_context(_STYLE)
def group_plot(
  curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
  *,
  label: str,
  groups: str,
) -> str:
  """Returns an SVG of means with their intervals over numbered groups.
  A point is group, value, low and high; the last curve is drawn in the accent
  colour.
  """
  figure = Figure(figsize=(4.2, 2.7), layout="constrained")
  axes = figure.add_subplot()
  # Beside each other, not over each other.
  shifts = [0.12 * (index - (len(curves) - 1) / 2) for index in range(9)]
  lines = ("-", "--", ":")
  for index, (name, points) in enumerate(curves.items()):
    last = index == len(curves) - 1
    colour = _ACCENT if last else (_INK, _QUIET)[index % 2]
    xs, values, lows, highs = zip(*points, strict=True)
    xs = [x + shifts[index] for x in xs]
    axes.vlines(xs, lows, highs, color=colour, linewidth=1.2)
    axes.plot(
      xs,
      values,
      "o" + ("-" if last else lines[index % 3]),
      color=colour,
      label=name,
      linewidth=1.4,
      markersize=4,
    )
  ticks = sorted({point[0] for points in curves.values() for point in points})
  axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
  axes.set_ylim(bottom=0)
  axes.legend(frameon=False)
  axes.grid(axis="y", color=_QUIET, alpha=0.25, linewidth=0.6)
  axes.locator_params(axis="y", nbins=5)
  axes.set_xlabel(groups)
  axes.set_title(label, loc="left", fontsize=9)
  return _inline_svg(figure, alt=f"{label} by {groups}")


def _inline_svg(figure: Figure, *, alt: str) -> str:
  """Renders a figure as an <svg> element that needs nothing from outside."""
  buffer = io.StringIO()
  figure.savefig(
    buffer,
    format="svg",
    transparent=True,
    metadata={"Date": None, "Creator": None},
  )
  svg = buffer.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  # An id must be unique in a page, and every figure has the same ones.
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  svg = re.sub(r"font-family: [^;]*; ", "", svg)
  for colour, variable in _PAGE_COLOURS.items():
    svg = svg.replace(colour, variable)
  return svg.replace("<svg", f'<svg role="img" aria-label="{alt}"', 1)
