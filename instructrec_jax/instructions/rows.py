"""Targets -> instruction rows: what a model is tuned on (paper section 2.2).

All prefixes of all users times all templates would be millions of rows, so
one form of one template is drawn for each target and family.
"""

import collections
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from instructrec_jax.data.candidates import Candidates
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.instructions.aspects import Query, TaskForm
from instructrec_jax.instructions.material import Facts, Material
from instructrec_jax.instructions.render import Slots, render
from instructrec_jax.instructions.responses import response
from instructrec_jax.instructions.templates import Form, Template

# Candidates that an instruction shows beside the target (section 3.1.2).
NEGATIVES = {TaskForm.RERANKING: 9, TaskForm.PAIRWISE: 1, TaskForm.POINTWISE: 1}

Families = Mapping[str, Sequence[Form]]
"""Forms by family."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """One example of instruction tuning.

  Attributes:
    form: name of the template's form.
    inputs: the instruction.
    targets: the desired answer.
    user: user number.
    item: item number of the target.
  """

  form: str
  inputs: str
  targets: str
  user: int
  item: int


@dataclasses.dataclass
class Cuts:
  """What the encoder's budget cost.

  Attributes:
    rows: instructions rendered.
    rows_with_dropped_items: those whose oldest history did not fit.
    items_dropped: items of history left out, in all.
    rows_over_budget: those that are too long without any history to drop.
  """

  rows: int = 0
  rows_with_dropped_items: int = 0
  items_dropped: int = 0
  rows_over_budget: int = 0


class Renderer:
  """Renders instructions and counts what is cut."""

  def __init__(self, *, count_tokens: Callable[[str], int], budget: int):
    """Takes a count of tokens, and how many of them the encoder takes."""
    self.cuts = Cuts()
    self._count_tokens = count_tokens
    self._budget = budget

  def text(self, form: Form, slots: Slots) -> str:
    """Returns an instruction that keeps to the budget."""
    rendered = render(
      form, slots, count_tokens=self._count_tokens, budget=self._budget
    )
    self.cuts.rows += 1
    self.cuts.rows_with_dropped_items += rendered.items_dropped > 0
    self.cuts.items_dropped += rendered.items_dropped
    self.cuts.rows_over_budget += not rendered.fits
    return rendered.text


def group_families(templates: Sequence[Template]) -> dict[str, list[Form]]:
  """Groups all templates' forms by family, in order of first use."""
  grouped = collections.defaultdict(list)
  for template in templates:
    for form in template.forms:
      grouped[form.family].append(form)
  return dict(grouped)


def usable_targets(
  facts: Facts, forms: Sequence[Form]
) -> Bool[np.ndarray, " n"]:
  """Tells which targets have what every form of a family needs."""
  return np.all([facts.usable(form) for form in forms], axis=0)


def count_rows(
  facts: Facts, families: Families, *, rows_per_target: int = 1
) -> dict[str, int]:
  """Returns how many rows `instruction_rows` gives of each family."""
  return {
    name: int(usable_targets(facts, forms).sum()) * rows_per_target
    for name, forms in families.items()
  }


@dataclasses.dataclass(frozen=True)
class _Draw:
  """One family's choices for the targets it can serve."""

  forms: Sequence[Form]
  place_of: Int[np.ndarray, " n"]
  form: Int[np.ndarray, " usable"]
  text: Int[np.ndarray, " usable"]
  positive: Bool[np.ndarray, " usable"]
  candidates: Candidates | None


def instruction_rows(
  material: Material,
  renderer: Renderer,
  *,
  facts: Facts,
  families: Families,
  rows_per_target: int = 1,
  candidates: Candidates | None = None,
  seed: int,
) -> Iterator[Row]:
  """Yields the rows of a split, target after target.

  Training targets come in random order: who reads the rows with a small
  shuffle buffer, as SeqIO does, still gets them well mixed. A row is a
  function of the data, its family's forms and the seed, not of other families
  or of how rows are read or stored.

  Args:
    material: of the dataset.
    renderer: for the texts.
    facts: of the split's targets.
    families: to draw from.
    rows_per_target: rows of each target and family.
    candidates: stored ones, in the targets' order, for a split that is tested
      on; drawn if None.
    seed: of forms, negatives and their order.
  """
  split = SPLITS.index(facts.split)
  draws = [
    _draw(
      material,
      facts,
      forms,
      stored=candidates,
      rng=np.random.default_rng(
        (seed, split, zlib.crc32(name.encode()), repeat)
      ),
    )
    for name, forms in families.items()
    for repeat in range(rows_per_target)
  ]
  order = np.arange(len(facts.items))
  if facts.split == "train":
    order = np.random.default_rng((seed, len(SPLITS))).permutation(order)
  for target in order.tolist():
    user, position = int(facts.users[target]), int(facts.positions[target])
    history = material.history(user, position, split=facts.split)
    for draw in draws:
      place = int(draw.place_of[target])
      if place >= 0:
        yield _row(material, renderer, facts, draw, target, place, history)


def _draw(
  material: Material,
  facts: Facts,
  forms: Sequence[Form],
  *,
  stored: Candidates | None,
  rng: np.random.Generator,
) -> _Draw:
  usable = usable_targets(facts, forms)
  count = int(usable.sum())
  place_of = np.where(usable, np.cumsum(usable) - 1, -1)
  # A family of chain-of-thought may mix forms with candidates and without.
  task_forms = {form.template.task_form for form in forms}
  negatives = max(
    (count for name, count in NEGATIVES.items() if name in task_forms),
    default=0,
  )
  candidates = None
  if negatives and stored is not None:
    candidates = Candidates(
      stored.keys[usable], stored.candidates[usable], stored.target[usable]
    )
  elif negatives and count:
    candidates = material.draw(
      users=facts.users[usable],
      items=facts.items[usable],
      negatives=negatives,
      split=facts.split,
      rng=rng,
    )
  return _Draw(
    forms,
    place_of,
    form=rng.integers(0, len(forms), count),
    text=rng.integers(0, 1 << 30, count),
    positive=rng.integers(0, 2, count).astype(bool),
    candidates=candidates,
  )


def _row(
  material: Material,
  renderer: Renderer,
  facts: Facts,
  draw: _Draw,
  target: int,
  place: int,
  history: list[str],
) -> Row:
  form = draw.forms[draw.form[place]]
  item = int(facts.items[target])
  positive = bool(draw.positive[place])
  shown, asked = _shown(form, draw.candidates, place, item, positive)
  slots = make_slots(
    material,
    facts,
    form,
    target=target,
    history=history,
    shown=shown,
    asked=asked,
    choice=int(draw.text[place]),
  )
  return Row(
    form=form.name,
    inputs=renderer.text(form, slots),
    targets=response(
      form, slots, target=material.titles[item], positive=positive
    ),
    user=int(facts.users[target]),
    item=item,
  )


def _shown(
  form: Form,
  candidates: Candidates | None,
  place: int,
  item: int,
  positive: bool,
) -> tuple[list[int], int]:
  """Returns the items in {candidates}, and the one in {candidate}."""
  if candidates is None:
    return [], item
  shown = candidates.candidates[place].tolist()
  negative = shown[candidates.target[place] - 1]
  task_form = form.template.task_form
  if task_form == TaskForm.POINTWISE:
    return [], item if positive else negative
  if task_form == TaskForm.PAIRWISE:
    return [item, negative] if positive else [negative, item], item
  return shown, item


def make_slots(
  material: Material,
  facts: Facts,
  form: Form,
  *,
  target: int,
  history: list[str],
  shown: Sequence[int] = (),
  asked: int | None = None,
  choice: int = 0,
) -> Slots:
  """Fills a form's slots with what is known of a target.

  Args:
    material: of the dataset.
    facts: of the split's targets.
    form: whose slots.
    target: which of the targets.
    history: titles of what the user had before.
    shown: items to choose from.
    asked: the item that a pointwise instruction asks about.
    choice: any number; tells which of several preferences is taken.
  """
  titles, texts = material.titles, facts.preferences[target]
  preference = texts[choice % len(texts)] if texts else ""
  if form.query == Query.PREFERENCE:
    query = preference
  else:
    query = facts.queries[form.query][target] if form.query else ""
  item = int(facts.items[target])
  return Slots(
    history=history,
    candidates=[titles[i] for i in shown],
    candidate=titles[item if asked is None else asked],
    target=titles[item],
    preference=preference if form.needs_preference else None,
    query=query,
    context=(
      material.context(int(facts.users[target]), int(facts.positions[target]))
      if "context" in form.slots
      else None
    ),
  )
