"""The paper's Table 2: counts and lengths of annotations and templates."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.instructions.templates import Template

_GROUPS = {
  "A": "preferences related",
  "B": "intentions related",
  "C": "combined",
}
# As printed: 23.5 words an annotation, 41.4 a template.
_PUBLISHED = {
  "annotations": "252,730",
  "preferences": "151,638",
  "intentions": "101,092",
  "annotation_words": "23.5",
  "templates": "39",
  "A": "17",
  "B": "9",
  "C": "13",
  "template_words": "41.4",
}


def instruction_statistics(
  templates: Sequence[Template], annotations: Mapping[str, Any]
) -> dict[str, float]:
  """Counts fine-grained annotations and coarse-grained templates.

  A template's words are those outside its slots, with its optional preference.

  Args:
    templates: of the dataset folder, or the package's.
    annotations: of `teacher.annotate.summarise`.
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
  for key, name in names.items():
    value = statistics[key]
    shown = f"{value:.1f}" if key.endswith("_words") else f"{value:,}"
    lines.append(f"| {name} | {shown} | {_PUBLISHED.get(key, '-')} |")
  return "\n".join(lines)
