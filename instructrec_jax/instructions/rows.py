"""Targets -> instruction rows, which a model is tuned on (paper section 2.2).

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
from instructrec_jax.instructions.persona import first_person
from instructrec_jax.instructions.render import Slots, render, response
from instructrec_jax.instructions.templates import Form, Template

# Negatives that an instruction shows beside the target (section 3.1.2).
NEGATIVES: Mapping[TaskForm | None, int] = {
  TaskForm.RERANKING: 9,
  TaskForm.PAIRWISE: 1,
  TaskForm.POINTWISE: 1,
}

Families = Mapping[str, Sequence[Form]]
"""Forms by family."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """One example of instruction tuning, by a named form of a template."""

  form: str
  inputs: str
  targets: str
  user: int
  item: int


@dataclasses.dataclass
class Cuts:
  """Counts of instructions truncated to the encoder's budget."""

  rows: int = 0
  rows_with_dropped_items: int = 0
  items_dropped: int = 0
  # Too long without any history to drop.
  rows_over_budget: int = 0


@dataclasses.dataclass(kw_only=True)
class Renderer:
  """Renders instructions, and counts those truncated to the budget."""

  count_tokens: Callable[[str], int]
  # Tokens, EOS included.
  budget: int
  cuts: Cuts = dataclasses.field(default_factory=Cuts)

  def text(self, form: Form, slots: Slots) -> str:
    """Returns an instruction, truncated to the budget if history allows."""
    rendered = render(
      form, slots, count_tokens=self.count_tokens, budget=self.budget
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


def count_rows(
  facts: Facts, families: Families, *, rows_per_target: int = 1
) -> dict[str, int]:
  """Returns the number of rows that `instruction_rows` yields, by family."""
  return {
    name: int(facts.usable(*forms).sum()) * rows_per_target
    for name, forms in families.items()
  }


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

  Training targets are shuffled, so that a reader with a small shuffle buffer,
  such as SeqIO, still mixes them well. A row is a function of the data, its
  family's forms and the seed, not of other families or of how rows are stored.

  Candidates of validation and test are stored ones, in the targets' order;
  without any they are drawn.
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
    user, item = int(facts.users[target]), int(facts.items[target])
    history = material.history(
      user, int(facts.positions[target]), split=facts.split
    )
    for draw in draws:
      row = int(draw.row_of[target])
      if row < 0:
        continue
      form = draw.forms[draw.form[row]]
      positive = bool(draw.positive[row])
      shown, asked = _shown(form, draw.candidates, row, item, positive)
      slots = make_slots(
        material,
        facts,
        form,
        target=target,
        history=history,
        shown=shown,
        asked=asked,
        choice=int(draw.preference[row]),
      )
      yield Row(
        form=form.name,
        inputs=renderer.text(form, slots),
        targets=response(
          form, slots, target=material.titles[item], positive=positive
        ),
        user=user,
        item=item,
      )


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
  """Returns the texts of a form's slots for a target.

  Args:
    material: of the dataset.
    facts: of the split's targets.
    form: whose slots.
    target: index of the target in `facts`.
    history: titles of the user's earlier items.
    shown: items to choose from.
    asked: the item that a pointwise instruction asks about.
    choice: its remainder selects one of several preferences.
  """
  titles, texts = material.titles, facts.preferences[target]
  preference = texts[choice % len(texts)] if texts else ""
  if form.query == Query.PREFERENCE:
    # It is quoted as what the user typed.
    query = first_person(preference)
  else:
    query = facts.queries[form.query][target] if form.query else ""
  item = int(facts.items[target])
  context = None
  if "context" in form.slots:
    context = material.context(
      int(facts.users[target]), int(facts.positions[target])
    )
  return Slots(
    history=history,
    candidates=[titles[i] for i in shown],
    candidate=titles[item if asked is None else asked],
    target=titles[item],
    preference=preference if form.needs_preference else None,
    query=query,
    context=context,
  )


@dataclasses.dataclass(frozen=True)
class _Draw:
  """A family's random choices for its usable targets."""

  forms: Sequence[Form]
  # Each target's row in what follows; -1 if it is not usable.
  row_of: Int[np.ndarray, " n"]
  form: Int[np.ndarray, " usable"]
  preference: Int[np.ndarray, " usable"]
  # Whether the target comes first, or is asked about.
  positive: Bool[np.ndarray, " usable"]
  candidates: Candidates | None


def _draw(
  material: Material,
  facts: Facts,
  forms: Sequence[Form],
  *,
  stored: Candidates | None,
  rng: np.random.Generator,
) -> _Draw:
  usable = facts.usable(*forms)
  count = int(usable.sum())
  # A family of chain-of-thought may mix forms with candidates and without.
  negatives = max(NEGATIVES.get(f.template.task_form, 0) for f in forms)
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
    np.where(usable, np.cumsum(usable) - 1, -1),
    form=rng.integers(0, len(forms), count),
    preference=rng.integers(0, 1 << 30, count),
    positive=rng.integers(0, 2, count).astype(bool),
    candidates=candidates,
  )


def _shown(
  form: Form,
  candidates: Candidates | None,
  row: int,
  item: int,
  positive: bool,
) -> tuple[list[int], int]:
  """Returns the items of {candidates}, and the one of {candidate}."""
  if candidates is None:
    return [], item
  shown = candidates.candidates[row].tolist()
  negative = shown[candidates.target[row] - 1]
  task_form = form.template.task_form
  if task_form == TaskForm.POINTWISE:
    return [], item if positive else negative
  if task_form == TaskForm.PAIRWISE:
    return [item, negative] if positive else [negative, item], item
  return shown, item
