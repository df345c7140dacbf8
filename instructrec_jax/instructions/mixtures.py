"""The forms of templates in each mixture, by name.

instructrec_a07_v1                of a template with several forms
instructrec_p1_i0_t3_v1           of a family <P,I,T>
instructrec_a_v1                  of a group of the appendix
instructrec_turn_around_v1        of a strategy
instructrec_all_v1                of all templates
instructrec_seen_templates_v1     all but one template of every kind, ...
instructrec_unseen_templates_v1   ... and that one: held-out wordings
instructrec_without_p1_i1_v1      all but a held-out scenario, in any task form
instructrec_ladder1_v1, ...       the rungs of the paper's Figure 3
"""

import collections
from collections.abc import Sequence

from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.templates import Form, Template

HELD_OUT = tuple("p1_i0 p1_p2_i0 p0_p2 p0_i1 p0_i2 p1_p2 p1_i1 p1_i2".split())
"""Scenarios that a mixture `instructrec_without_..._v1` leaves out."""

# Figure 3 holds out personalised search with a vague intention and adds one
# kind of instruction at a time: pairs of preference and query. The last is a
# paraphrase of the intention, the item's view, of other reviews.
_LADDER = (
  {("P1", "I0")},
  {("P2", "I0")},
  {("P0", Query.SPECIFIC), ("P0", Query.PREFERENCE)},
  {("P1", Query.SPECIFIC), ("P1", Query.PREFERENCE)},
  {("P0", Query.VAGUE_STAR), ("P1", Query.VAGUE_STAR)},
)


def mixtures(templates: Sequence[Template]) -> dict[str, list[Form]]:
  """Returns the forms of each mixture; none is empty."""
  groups: dict[str, list[Form]] = collections.defaultdict(list)
  unseen = _unseen(templates)
  for template in templates:
    for form in template.forms:
      seen = "unseen" if template.name in unseen else "seen"
      names = {
        form.family,
        template.group.lower(),
        template.strategy.replace("-", "_"),
        "all",
        f"{seen}_templates",
      }
      if len(template.forms) > 1:
        names.add(template.name.lower())
      names |= {f"without_{s}" for s in HELD_OUT if s != _scenario(form)}
      names |= _rungs(form)
      for name in names:
        groups[f"instructrec_{name}_v1"].append(form)
  return dict(sorted(groups.items()))


def _unseen(templates: Sequence[Template]) -> set[str]:
  """Returns the last template of each group and kind that has several."""
  kinds = collections.defaultdict(list)
  for template in templates:
    kind = (template.group, template.task_form, template.strategy)
    kinds[kind].append(template.name)
  return {names[-1] for names in kinds.values() if len(names) > 1}


def _scenario(form: Form) -> str:
  """Returns a form's <P,I>; I1* counts as I1."""
  task = form.template.task_form or form.template.strategy
  suffix = f"_{task.replace('-', '_').lower()}"
  return form.family.removesuffix(suffix).replace("i1star", "i1")


def _rungs(form: Form) -> set[str]:
  """Returns the rungs that have a form: the first with its kind, and later."""
  parts = form.family.upper().split("_")
  preference = "P2" if "P2" in parts and not form.query else parts[0]
  kind = (preference, form.query or "I0")
  for rung, kinds in enumerate(_LADDER):
    if kind in kinds:
      return {f"ladder{r + 1}" for r in range(rung, len(_LADDER))}
  return set()
