"""Targets -> instruction rows, which a model is tuned on (paper section 2.2).

All prefixes of all users times all templates would be millions of rows, so
one form of one template is drawn for each target and family. A search by
categories alone has no user, so its targets are items, each one once.
"""

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from instructrec_jax.data.candidates import Candidates
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.instructions.aspects import Query, TaskForm
from instructrec_jax.instructions.material import Facts, Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.persona import first_person
from instructrec_jax.instructions.render import (
  Slots,
  fitted_response,
  render,
)
from instructrec_jax.instructions.templates import Form, Template

# Negatives that an instruction shows beside the target (section 3.1.2).
NEGATIVES: Mapping[TaskForm | None, int] = {
  TaskForm.RERANKING: 9,
  TaskForm.PAIRWISE: 1,
  TaskForm.POINTWISE: 1,
}

# With paraphrases an item is searched for in so many wordings of each family.
WORDINGS_PER_ITEM = 16

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
  """Counts of instructions and answers truncated to their budgets."""

  rows: int = 0
  rows_with_dropped_items: int = 0
  items_dropped: int = 0
  # Too long without any history to drop.
  rows_over_budget: int = 0
  answers: int = 0
  answers_with_dropped_items: int = 0
  answer_items_dropped: int = 0
  # A preference or query lost its last words.
  answers_with_dropped_words: int = 0
  # Too long with nothing left to drop, a title alone: there is no such row.
  answers_over_budget: int = 0

  def add(self, other: "Cuts") -> None:
    """Adds other counts to these."""
    for name, count in vars(other).items():
      if count:
        setattr(self, name, getattr(self, name) + count)


@dataclasses.dataclass(kw_only=True)
class Renderer:
  """Renders instructions and answers; counts those truncated to the budget."""

  count_tokens: Callable[[str], int]
  # Tokens, EOS included; answers are not truncated if theirs is None.
  budget: int
  answer_budget: int | None = None
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

  def answer(
    self, form: Form, slots: Slots, *, target: str, positive: bool = True
  ) -> str:
    """Returns a desired answer, truncated to the budget; "" if it cannot be."""
    fitted = fitted_response(
      form,
      slots,
      target=target,
      positive=positive,
      count_tokens=self.count_tokens,
      budget=self.answer_budget,
    )
    if not fitted.fits:
      self.cuts.answers_over_budget += 1
      return ""
    self.cuts.answers += 1
    self.cuts.answers_with_dropped_items += fitted.items_dropped > 0
    self.cuts.answer_items_dropped += fitted.items_dropped
    self.cuts.answers_with_dropped_words += fitted.words_dropped > 0
    return fitted.text


def group_families(
  templates: Sequence[Template], *, held_out: bool = False
) -> dict[str, list[Form]]:
  """Groups templates' forms by family, in order of first use.

  Either those to train on, or those that are held out.
  """
  grouped = collections.defaultdict(list)
  for template in templates:
    if template.held_out == held_out:
      for form in template.forms:
        grouped[form.family].append(form)
  return dict(grouped)


def instruction_rows(
  material: Material, renderer: Renderer, *, facts: Facts, **options: Any
) -> Iterator[Row]:
  """Yields the rows of a split, target after target.

  The further arguments are those of `instruction_parts`. No training row is
  there twice.
  """
  seen: set[int] | None = set() if facts.split == "train" else None
  for part in instruction_parts(material, facts=facts, **options):
    yield from new_rows(part.rendered(renderer), seen=seen, renderer=renderer)


def new_rows(
  rendered: Iterable[tuple[Row | None, Cuts]],
  *,
  seen: set[int] | None,
  renderer: Renderer,
) -> Iterator[Row]:
  """Yields rows that are not there yet, and has the renderer count their cuts.

  Args:
    rendered: of `Part.rendered`.
    seen: gets a hash of each row; None where rows may repeat.
    renderer: whose `cuts` are added to.
  """
  for row, cuts in rendered:
    if row is not None and seen is not None:
      known = hash((row.form, row.inputs, row.targets))
      if known in seen:
        continue
      seen.add(known)
    renderer.cuts.add(cuts)
    if row is not None:
      yield row


def instruction_parts(
  material: Material,
  *,
  facts: Facts,
  families: Families,
  rows_per_target: int = 1,
  candidates: Candidates | None = None,
  item_candidates: Candidates | None = None,
  paraphrases: Paraphrases | None = None,
  unlisted: float = 0.0,
  seed: int,
) -> list["Part"]:
  """Returns the rows of users' targets, and those of items; not yet rendered.

  Training targets are shuffled, so that a reader with a small shuffle buffer,
  such as SeqIO, still mixes them well. A row is a function of the data, its
  family's forms and the seed, not of other families or of how rows are stored.

  Candidates of validation and test are stored ones, in the targets' order;
  without any they are drawn. Those of searches without a user are
  `item_candidates`, whose keys are then the split's items.

  An answer that does not fit its budget, as its title alone is too long, has no
  row. With `paraphrases`, queries of training are worded as a crowd would type
  them. In a share of training's lists of candidates, `unlisted`, a negative
  stands for the target: a list that is no sure hint is not copied from, and
  what is asked is read beside it.
  """
  is_training = facts.split == "train"
  of_items = {n: forms for n, forms in families.items() if is_of_items(forms)}
  of_targets = {n: forms for n, forms in families.items() if n not in of_items}
  items = material.searchable_items(facts.split)
  if item_candidates is not None:
    items = item_candidates.keys
  wordings = WORDINGS_PER_ITEM if paraphrases and is_training else 1
  parts = (
    (facts, of_targets, candidates, rows_per_target),
    (
      material.item_facts(items, split=facts.split),
      of_items,
      item_candidates,
      rows_per_target * wordings,
    ),
  )
  return [
    Part(
      material=material,
      facts=of_part,
      families=its_families,
      rows_per_target=repeats,
      candidates=stored,
      paraphrases=paraphrases if is_training else None,
      unlisted=unlisted if is_training else 0.0,
      seed=seed,
    )
    for of_part, its_families, stored, repeats in parts
  ]


def usable_targets(
  material: Material, split: str, forms: Sequence[Form]
) -> Bool[np.ndarray, " n"]:
  """Returns a mask of the targets, or items, that a family has rows of."""
  if is_of_items(forms):
    return np.ones(len(material.searchable_items(split)), bool)
  return material.facts(split).usable(*forms)


def is_of_items(forms: Sequence[Form]) -> bool:
  """Whether a family is of searches by categories, without a user."""
  return all(
    form.query == Query.SPECIFIC
    and not form.needs_history
    and not form.needs_preference
    for form in forms
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Part:
  """Rows of some families, drawn for all targets and rendered for any of them.

  The attributes are of `instruction_parts`. Nothing is drawn before the first
  row is rendered.
  """

  material: Material
  facts: Facts
  families: Families
  rows_per_target: int
  candidates: Candidates | None
  paraphrases: Paraphrases | None
  unlisted: float
  seed: int

  @property
  def rows_of_target(self) -> int:
    """At most."""
    return len(self.families) * self.rows_per_target

  def __len__(self) -> int:
    """Returns the number of targets."""
    return len(self.facts.items) if self.families else 0

  @functools.cached_property
  def _wished(self) -> Facts:
    if self.paraphrases is None:
      return self.facts
    return _wished_for(self.facts, self.paraphrases)

  @functools.cached_property
  def _draws(self) -> list["_Draw"]:
    split = SPLITS.index(self.facts.split)
    return [
      _draw(
        self.material,
        # A query that is the answer stays a teacher's.
        self.facts
        if any(f.template.response.holds_query for f in forms)
        else self._wished,
        forms,
        stored=self.candidates,
        unlisted=self.unlisted,
        rng=np.random.default_rng(
          (self.seed, split, zlib.crc32(name.encode()), repeat)
        ),
      )
      for name, forms in self.families.items()
      for repeat in range(self.rows_per_target)
    ]

  @functools.cached_property
  def _order(self) -> Int[np.ndarray, " n"]:
    order = np.arange(len(self.facts.items))
    if self.facts.split == "train":
      rng = np.random.default_rng((self.seed, len(SPLITS)))
      order = rng.permutation(order)
    return order

  def rendered(
    self, renderer: Renderer, *, start: int = 0, end: int | None = None
  ) -> Iterator[tuple[Row | None, Cuts]]:
    """Yields rows with what each truncated.

    A row is None where its answer does not fit.

    Args:
      renderer: whose own `cuts` stay.
      start: the first target, in the order of the rows.
      end: the target after the last; None for all.
    """
    renderer = dataclasses.replace(renderer)
    for target in self._order[start:end].tolist():
      yield from self._of_target(target, renderer)

  def _of_target(
    self, target: int, renderer: Renderer
  ) -> Iterator[tuple[Row | None, Cuts]]:
    material, facts = self.material, self.facts
    user, item = int(facts.users[target]), int(facts.items[target])
    history = material.history(
      user, int(facts.positions[target]), split=facts.split
    )
    for draw in self._draws:
      place = int(draw.row_of[target])
      if place < 0:
        continue
      form = draw.forms[draw.form[place]]
      positive = bool(draw.positive[place])
      shown, asked = _shown(form, draw, place, item)
      writes_query = form.template.response.holds_query
      slots = make_slots(
        material,
        facts if writes_query else self._wished,
        form,
        target=target,
        history=history,
        shown=shown,
        asked=asked,
        choice=int(draw.preference[place]),
      )
      if self.paraphrases and not writes_query:
        query = _paraphrased(
          self.paraphrases,
          form,
          slots.query,
          item=item,
          had=material.history_items(
            user, int(facts.positions[target]), split=facts.split
          ),
          number=int(draw.wording[place]),
        )
        slots = dataclasses.replace(slots, query=query)
      renderer.cuts = Cuts()
      targets = renderer.answer(
        form, slots, target=material.titles[item], positive=positive
      )
      if targets:
        inputs = renderer.text(form, slots)
        yield Row(form.name, inputs, targets, user, item), renderer.cuts
      else:
        yield None, renderer.cuts


def _wished_for(facts: Facts, paraphrases: Paraphrases) -> Facts:
  """Returns facts in which a crowd wishes for targets that no teacher saw.

  Or for all of them, if it shows its own wishes alone.
  """
  if Query.VAGUE not in facts.queries:
    return facts
  wishes = [
    (not paraphrases.shows_own_wishes and text)
    or paraphrases.wish(item, number=target)
    for target, (text, item) in enumerate(
      zip(facts.queries[Query.VAGUE], facts.items.tolist(), strict=True)
    )
  ]
  queries = {**facts.queries, Query.VAGUE: wishes}
  return dataclasses.replace(facts, queries=queries)


def _paraphrased(
  paraphrases: Paraphrases,
  form: Form,
  query: str,
  *,
  item: int,
  had: Sequence[int],
  number: int,
) -> str:
  """Returns a query in a crowd's words; every other wish stays a teacher's."""
  if form.query == Query.SPECIFIC:
    return paraphrases.search(item, query, had=had, number=number)
  if form.query == Query.VAGUE and number % 2:
    return paraphrases.wish(item, had=had, number=number) or query
  return query


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
    choice: its remainder selects one of several preferences, unless the form
      is of one kind; where that says nothing of its own, the first stands.
  """
  titles, texts = material.titles, facts.preferences[target]
  told = [*texts.values()] or [""]
  preference = told[choice % len(told)]
  if form.preference_kind:
    preference = texts.get(form.preference_kind, told[0])
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
  wording: Int[np.ndarray, " usable"]
  candidates: Candidates | None
  # The candidate that a list leaves out, of one more than it shows: the target,
  # or any other; None if all lists have their target.
  left_out: Int[np.ndarray, " usable"] | None


def _draw(
  material: Material,
  facts: Facts,
  forms: Sequence[Form],
  *,
  stored: Candidates | None,
  unlisted: float,
  rng: np.random.Generator,
) -> _Draw:
  usable = facts.usable(*forms)
  count = int(usable.sum())
  # A family of chain-of-thought may mix forms with candidates and without.
  negatives = max(NEGATIVES.get(f.template.task_form, 0) for f in forms)
  lists = any(f.template.task_form == TaskForm.RERANKING for f in forms)
  unlisted = unlisted if lists else 0.0
  candidates = None
  if negatives and stored is not None:
    candidates = Candidates(
      stored.keys[usable], stored.candidates[usable], stored.target[usable]
    )
  elif negatives and count:
    candidates = material.draw(
      users=facts.users[usable],
      items=facts.items[usable],
      negatives=negatives + (unlisted > 0),
      split=facts.split,
      rng=rng,
    )
  left_out = None
  if unlisted and candidates is not None:
    others = rng.integers(1, negatives + 2, count)
    others[rng.random(count) < unlisted] = 0
    left_out = (candidates.target + others) % (negatives + 2)
  return _Draw(
    forms,
    np.where(usable, np.cumsum(usable) - 1, -1),
    form=rng.integers(0, len(forms), count),
    preference=rng.integers(0, 1 << 30, count),
    positive=rng.integers(0, 2, count).astype(bool),
    wording=rng.integers(0, 1 << 30, count),
    candidates=candidates,
    left_out=left_out,
  )


def _shown(
  form: Form, draw: _Draw, row: int, item: int
) -> tuple[list[int], int]:
  """Returns the items of {candidates}, and the one of {candidate}."""
  candidates = draw.candidates
  if candidates is None:
    return [], item
  shown = candidates.candidates[row].tolist()
  place = int(candidates.target[row])
  negative = shown[place - 1]
  positive = bool(draw.positive[row])
  task_form = form.template.task_form
  if task_form == TaskForm.POINTWISE:
    return [], item if positive else negative
  if task_form == TaskForm.PAIRWISE:
    return [item, negative] if positive else [negative, item], item
  if draw.left_out is not None:
    del shown[draw.left_out[row]]
  return shown, item
