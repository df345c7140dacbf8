"""A scenario's requests, worded with any form of its family."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.held_out import candidates_path, stored_candidates
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.instructions.forms import Form
from instructrec_jax.instructions.material import Facts, Material
from instructrec_jax.instructions.ranking import ranking_requests
from instructrec_jax.instructions.rows import Renderer
from instructrec_jax.records import RankingRequest


def sample(
  count: int, *, limit: int | None, seed: int
) -> Int[np.ndarray, " chosen"]:
  """Returns the rows of a random sample, ascending.

  Users are often stored in an order that tells them apart, so the first ones
  would not do.
  """
  if limit is None or limit >= count:
    return np.arange(count)
  return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


class ScenarioWriter:
  """Words scenarios' requests; keeps what is known of each split's targets."""

  def __init__(
    self, folder: DatasetFolder, material: Material, renderer: Renderer
  ):
    """Takes a dataset folder and what words its instructions."""
    self._folder = folder
    self._material = material
    self._renderer = renderer
    self._facts: dict[str, Facts] = {}

  def facts(self, split: str) -> Facts:
    """Returns what is known of a split's targets."""
    if split not in self._facts:
      self._facts[split] = self._material.facts(split)
    return self._facts[split]

  def requests(
    self,
    scenario: Scenario,
    *,
    split: str,
    form: Form,
    limit: int | None = None,
    seed: int = 0,
  ) -> tuple[int, Iterator[RankingRequest]]:
    """Returns how many requests there are, and the requests.

    Targets that lack what the form shows are left out.

    Args:
      scenario: whose candidates to rank.
      split: "validation" or "test".
      form: of the scenario's family.
      limit: only a random sample of so many.
      seed: of the sample, which is the same for all forms of a family.

    Raises:
      InputError: the folder lacks the candidates, or what the form shows.
    """
    stored = stored_candidates(scenario, folder=self._folder, split=split)
    if scenario.candidates == "items":
      facts = self._material.item_facts(stored.keys, split=split)
    else:
      facts = self.facts(split)
      if not np.array_equal(facts.users, stored.keys):
        raise InputError(
          f"{candidates_path(scenario, folder=self._folder, split=split)}: "
          "not the users of the split; prepare the folder again."
        )
    rows = np.flatnonzero(facts.usable(form))
    if not len(rows):
      raise InputError(_nothing_to_show(form))
    rows = rows[sample(len(rows), limit=limit, seed=seed)]
    return len(rows), ranking_requests(
      self._material,
      self._renderer,
      form=form,
      facts=facts,
      rows=rows,
      candidates=stored.candidates[rows],
      slots=stored.target[rows],
      name=scenario.name,
    )


def _nothing_to_show(form: Form) -> str:
  wanted = [
    name
    for name, needed in (
      ("preferences in words", form.needs_preference),
      ("intentions", (form.query or "").startswith("I1")),
      ("categories", form.query == "I2"),
    )
    if needed
  ]
  advice = (
    "; run `instructrec annotate` first" if wanted != ["categories"] else ""
  )
  return f"the dataset has no {' and '.join(wanted)}{advice}"
