"""The paper's Table 2: counts and lengths of annotations and templates."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax import paper
from instructrec_jax.instructions.templates import Template

_GROUPS = {
  "A": "preferences related",
  "B": "intentions related",
  "C": "combined",
}


def instruction_statistics(
  templates: Sequence[Template], annotations: Mapping[str, Any]
) -> dict[str, float]:
  """Counts fine-grained annotations and coarse-grained templates.

  A template's words are those outside its slots, with its optional preference.
  `annotations` is of `teacher.annotate.summarise`.
  """
  groups = collections.Counter(template.group for template in templates)
  words = [
    sum(len(literal.split()) for literal in template.forms[-1].segments[::2])
    for template in templates
  ]
  return {
    "annotations": annotations["preferences"] + annotations["intentions"],
    "preferences": annotations["preferences"],
    "intentions": annotations["intentions"],
    "annotation_words": annotations["words"]["all"],
    "templates": len(templates),
    **dict(sorted(groups.items())),
    "template_words": float(np.mean(words)),
  }


def table(statistics: Mapping[str, float]) -> str:
  """Returns Table 2 in Markdown, the paper's numbers beside ours."""
  names = {
    "annotations": "# of fine-grained instructions",
    "preferences": "- # of user-described preferences",
    "intentions": "- # of user intention in decision making",
    "annotation_words": "ave. instruction length (in words)",
    "templates": "# of coarse-grained instructions",
    **{
      group: f"- # of {_GROUPS.get(group, f'group {group}')} instructions"
      for group in statistics
      if len(group) == 1
    },
    "template_words": "ave. instruction length (in words)",
  }
  lines = ["| Statistic | here | paper |", "| --- | ---: | ---: |"]
  printed = paper.results()["annotations"]
  for key, name in names.items():
    style = ".1f" if key.endswith("_words") else ","
    there = format(printed[key], style) if key in printed else "-"
    lines.append(f"| {name} | {statistics[key]:{style}} | {there} |")
  return "\n".join(lines)
