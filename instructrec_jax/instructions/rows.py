"""Targets -> instruction rows: what a model is tuned on (paper section 2.2).

All prefixes of all users times all templates would be millions of rows, so
one template is drawn for each target and family of templates.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from instructrec_jax.data.candidates import (
  Candidates,
  draw_candidates,
  title_groups,
)
from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import Targets
from instructrec_jax.instructions.aspects import TaskForm
from instructrec_jax.instructions.render import Slots, render
from instructrec_jax.instructions.responses import response
from instructrec_jax.instructions.templates import Template
from instructrec_jax.records import RankingRequest

SPLITS = ("train", "validation", "test")
# Candidates of a reranking instruction beside the target (section 3.1.2).
NEGATIVES = 9


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """One example of instruction tuning.

  Attributes:
    template: name of the template.
    inputs: the instruction.
    targets: the desired answer.
    user: user number.
    item: item number of the target.
  """

  template: str
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
  """Renders instructions of one dataset and counts what is cut."""

  def __init__(
    self,
    *,
    titles: list[str],
    sequences: Sequences,
    owned: Sequences,
    count_tokens: Callable[[str], int],
    budget: int,
  ):
    """Takes a dataset.

    Args:
      titles: as `render.display_titles` gives them.
      sequences: the users' items that histories are taken from.
      owned: all of the users' items, which are never their negatives.
      count_tokens: of the vocabulary.
      budget: tokens that the encoder takes.
    """
    self.titles = titles
    self.sequences = sequences
    self.owned = owned
    self.title_groups = title_groups(titles)
    self.cuts = Cuts()
    self._count_tokens = count_tokens
    self._budget = budget

  def history(self, user: int, position: int) -> list[str]:
    """Returns titles of all that a user had before a position."""
    return [self.titles[i] for i in self.sequences.user(user)[:position]]

  def text(self, template: Template, slots: Slots) -> str:
    """Returns an instruction that keeps to the budget."""
    rendered = render(
      template, slots, count_tokens=self._count_tokens, budget=self._budget
    )
    self.cuts.rows += 1
    self.cuts.rows_with_dropped_items += rendered.items_dropped > 0
    self.cuts.items_dropped += rendered.items_dropped
    self.cuts.rows_over_budget += not rendered.fits
    return rendered.text


def families(templates: Sequence[Template]) -> dict[str, list[Template]]:
  """Groups templates by combination of aspects, in order of first use."""
  grouped = collections.defaultdict(list)
  for template in templates:
    grouped[template.aspects.family].append(template)
  return dict(grouped)


def count_rows(
  targets: Targets, templates: Sequence[Template], *, rows_per_target: int = 1
) -> int:
  """Returns how many rows `instruction_rows` gives."""
  return len(targets.users) * len(families(templates)) * rows_per_target


def instruction_rows(
  renderer: Renderer,
  *,
  targets: Targets,
  split: str,
  templates: Sequence[Template],
  rows_per_target: int = 1,
  candidates: Candidates | None = None,
  seed: int,
) -> Iterator[Row]:
  """Yields the rows of a split, target after target.

  Training targets come in random order: who reads the rows with a small
  shuffle buffer, as SeqIO does, still gets them well mixed. A row is a
  function of the data, the templates and the seed, not of how rows are read
  or stored.

  Args:
    renderer: of the dataset.
    targets: whom to predict what for.
    split: one of `SPLITS`; its rows are drawn independently of the others'.
    templates: to draw from.
    rows_per_target: rows of each target and family.
    candidates: stored ones, for a split that is tested on; drawn if None.
    seed: of templates, negatives and their order.
  """
  titles, sequences = renderer.titles, renderer.sequences
  items = targets.items(sequences)
  draws = []
  for number, family in enumerate(families(templates).values()):
    for repeat in range(rows_per_target):
      rng = np.random.default_rng((seed, SPLITS.index(split), number, repeat))
      drawn = candidates
      if drawn is None:
        drawn = draw_candidates(
          owned=renderer.owned,
          title_groups=renderer.title_groups,
          users=targets.users,
          targets=items,
          negatives=NEGATIVES
          if family[0].aspects.task_form == TaskForm.RERANKING
          else 1,
          rng=rng,
        )
      draws.append(
        (
          family,
          rng.integers(0, len(family), len(items)),
          rng.integers(0, 2, len(items)).astype(bool),
          drawn,
        )
      )
  order = np.arange(len(items))
  if split == "train":
    order = np.random.default_rng((seed, len(SPLITS))).permutation(order)
  for row in order.tolist():
    user, item = int(targets.users[row]), int(items[row])
    history = renderer.history(user, int(targets.positions[row]))
    for family, choice, positive, drawn in draws:
      template = family[choice[row]]
      shown = drawn.candidates[row]
      asked = item if positive[row] else int(shown[drawn.target[row] - 1])
      slots = Slots(
        history=history,
        candidates=[titles[i] for i in shown],
        candidate=titles[asked],
      )
      yield Row(
        template=template.name,
        inputs=renderer.text(template, slots),
        targets=response(
          template.response, target=titles[item], positive=bool(positive[row])
        ),
        user=user,
        item=item,
      )


def ranking_requests(
  renderer: Renderer,
  *,
  template: Template,
  targets: Targets,
  candidates: Candidates,
  name: str,
) -> Iterator[RankingRequest]:
  """Yields a request for each target, with its stored candidates.

  Args:
    renderer: of the dataset.
    template: T3, whose instruction shows the candidates, or T2.
    targets: in the order of `candidates`.
    candidates: as stored.
    name: what request ids begin with.
  """
  titles = renderer.titles
  for row, (user, position) in enumerate(
    zip(targets.users.tolist(), targets.positions.tolist(), strict=True)
  ):
    shown = candidates.candidates[row].tolist()
    texts = tuple(titles[item] for item in shown)
    slots = Slots(history=renderer.history(user, position), candidates=texts)
    yield RankingRequest(
      request_id=f"{name}-{user}",
      instruction=renderer.text(template, slots),
      candidates=texts,
      target=int(candidates.target[row]),
      user=user,
      history_items=tuple(renderer.sequences.user(user)[:position].tolist()),
      candidate_items=tuple(shown),
    )
