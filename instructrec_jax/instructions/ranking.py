"""Targets and stored candidates -> ranking requests."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, Int32

from instructrec_jax.instructions.aspects import TaskForm
from instructrec_jax.instructions.material import Facts, Material
from instructrec_jax.instructions.responses import NO, YES
from instructrec_jax.instructions.rows import Renderer, make_slots
from instructrec_jax.instructions.templates import Form
from instructrec_jax.records import RankingRequest

# A reranking instruction shows no more: a hundred titles do not fit (Table 10).
MOST_SHOWN = 10


def ranking_requests(
  material: Material,
  renderer: Renderer,
  *,
  form: Form,
  facts: Facts,
  rows: Sequence[int] | Int[np.ndarray, " rows"],
  candidates: Int32[np.ndarray, "rows candidates"],
  slots: Int32[np.ndarray, " rows"],
  name: str,
) -> Iterator[RankingRequest]:
  """Yields a request for each chosen target, with its stored candidates.

  A pointwise form asks about the target in one half of the requests and about
  a negative in the other, and its candidates are Yes and No.

  Args:
    material: of the dataset.
    renderer: for the texts.
    form: of the instructions.
    facts: of a split's targets.
    rows: which of the targets.
    candidates: item numbers, a row for each of `rows`.
    slots: the target's place in its row.
    name: what request ids begin with.
  """
  pointwise = form.template.task_form == TaskForm.POINTWISE
  titles = material.titles
  for row, shown_C, slot in zip(rows, candidates, slots.tolist(), strict=True):
    user, position = int(facts.users[row]), int(facts.positions[row])
    shown = shown_C.tolist()
    # By its drawn slot, as good as a coin: no generator, no state.
    positive = slot % 2 == 0
    asked = shown[slot] if positive else shown[slot - 1]
    filled = make_slots(
      material,
      facts,
      form,
      target=int(row),
      history=material.history(user, position, split=facts.split),
      shown=shown[:MOST_SHOWN],
      asked=asked,
    )
    item = int(facts.items[row])
    yield RankingRequest(
      request_id=f"{name}-{user}" if user >= 0 else f"{name}-item{item}",
      instruction=renderer.text(form, filled),
      candidates=(YES, NO) if pointwise else tuple(titles[i] for i in shown),
      target=int(not positive) if pointwise else slot,
      user=user if user >= 0 else None,
      history_items=tuple(material.history_items(user, position)),
      candidate_items=(asked, asked) if pointwise else tuple(shown),
      query=filled.query,
    )
