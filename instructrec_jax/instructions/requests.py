"""The ranking requests of each scenario, in the words of any of its forms."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, Int32

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.held_out import candidates_path, stored_candidates
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import Query, TaskForm
from instructrec_jax.instructions.material import Facts, Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.render import NO, YES
from instructrec_jax.instructions.rows import Renderer, make_slots
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.instructions.templates import Form
from instructrec_jax.records import RankingRequest

# A reranking prompt lists no more: a hundred titles do not fit (Table 10).
MOST_SHOWN = 10


def sample(
  count: int, *, limit: int | None, seed: int
) -> Int[np.ndarray, " chosen"]:
  """Returns the indices of a random sample, ascending.

  The first `limit` users would be biased: users are often stored in an order
  that is correlated with what they bought.
  """
  if limit is None or limit >= count:
    return np.arange(count)
  return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


class ScenarioWriter:
  """Renders the requests of scenarios."""

  def __init__(
    self,
    folder: DatasetFolder,
    material: Material,
    renderer: Renderer,
    *,
    paraphrases: Paraphrases | None = None,
  ):
    """Takes a dataset folder, its material, a renderer, and a crowd's words."""
    self._folder = folder
    self._material = material
    self._renderer = renderer
    self._paraphrases = paraphrases

  def requests(
    self,
    scenario: Scenario,
    *,
    split: str,
    forms: Sequence[Form],
    limit: int | None = None,
    seed: int = 0,
  ) -> tuple[int, Iterator[RankingRequest]]:
    """Returns the number of requests, and the requests.

    Each is worded by one of the forms, of the scenario's family. Targets that
    lack what they show are left out. A random sample of `limit` is the same for
    all forms of a family. A crowd's search by categories is said in its words.

    Raises:
      InputError: the folder lacks the candidates, or what the form shows.
    """
    stored = stored_candidates(scenario, folder=self._folder, split=split)
    if scenario.candidates == "items":
      facts = self._material.item_facts(stored.keys, split=split)
    else:
      facts = self._material.facts(split)
      if not np.array_equal(facts.users, stored.keys):
        raise InputError(
          f"{candidates_path(scenario, folder=self._folder, split=split)}: "
          "not the users of the split; prepare the folder again."
        )
    form = forms[0]
    rows = np.flatnonzero(facts.usable(*forms))
    if not len(rows):
      missing = {
        "preferences in words": form.needs_preference,
        "intentions": (form.query or "").startswith("I1"),
        "categories": form.query == "I2",
      }
      wanted = [name for name, needed in missing.items() if needed]
      advice = ""
      if wanted != ["categories"] and not self._material.is_annotated:
        advice = "; run `instructrec annotate` first"
      raise InputError(f"the dataset has no {' and '.join(wanted)}{advice}")
    rows = rows[sample(len(rows), limit=limit, seed=seed)]
    if scenario.crowd and form.query == Query.SPECIFIC and self._paraphrases:
      said = [
        self._paraphrases.held_out(item, categories, number=number)
        for number, (item, categories) in enumerate(
          zip(facts.items.tolist(), facts.queries[Query.SPECIFIC], strict=True)
        )
      ]
      queries = {**facts.queries, Query.SPECIFIC: said}
      facts = dataclasses.replace(facts, queries=queries)
    return len(rows), ranking_requests(
      self._material,
      self._renderer,
      forms=forms,
      facts=facts,
      rows=rows,
      candidates=stored.candidates[rows],
      slots=stored.target[rows],
      name=scenario.name,
    )


def ranking_requests(
  material: Material,
  renderer: Renderer,
  *,
  forms: Sequence[Form],
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
    renderer: of instructions.
    forms: of the instructions, in turn.
    facts: of a split's targets.
    rows: their indices in `facts`.
    candidates: item numbers, a row for each of `rows`.
    slots: the target's index among its candidates.
    name: prefix of the request ids.
  """
  pointwise = forms[0].template.task_form == TaskForm.POINTWISE
  titles = material.titles
  for row, shown_C, slot in zip(rows, candidates, slots.tolist(), strict=True):
    form = forms[int(row) % len(forms)]
    user, position = int(facts.users[row]), int(facts.positions[row])
    shown = shown_C.tolist()
    # The slot was drawn uniformly, so its parity is a fair coin.
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
      # All kinds of preference, in turn.
      choice=max(user, 0),
    )
    item = int(facts.items[row])
    yield RankingRequest(
      request_id=f"{name}-{user}" if user >= 0 else f"{name}-item{item}",
      instruction=renderer.text(form, filled),
      candidates=(YES, NO) if pointwise else tuple(titles[i] for i in shown),
      target=int(not positive) if pointwise else slot,
      user=user if user >= 0 else None,
      history_items=tuple(
        material.history_items(user, position, split=facts.split)
      ),
      candidate_items=(asked, asked) if pointwise else tuple(shown),
      query=filled.query,
    )
