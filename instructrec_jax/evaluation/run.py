"""How an evaluation treats each of its scenarios."""

import dataclasses
import functools
from typing import Any

import numpy as np

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.held_out import matcher, retrieved
from instructrec_jax.evaluation import blocks, protocol, selection
from instructrec_jax.evaluation.chat_sample import NAME as CHAT
from instructrec_jax.evaluation.chat_sample import ChatSample
from instructrec_jax.evaluation.normalised import SharedScores
from instructrec_jax.evaluation.permutations import PermutedRanker
from instructrec_jax.evaluation.rankers import READERS, applies
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.evaluation.tournament import TournamentRanker
from instructrec_jax.instructions.forms import Form
from instructrec_jax.records import Ranker
from instructrec_jax.scoring.normalisation import Normalisation

# Models that read prompts, whose orders and length matter to them.
_PROMPTED = ("model", "zero_shot")
# The best normalisation of each scenario, by validation.
SELECT = "select"


@dataclasses.dataclass(frozen=True)
class Run:
  """What all scenarios of an evaluation share.

  Attributes:
    folder: the dataset's.
    rankers: by name, in the table's order; "model" is a `NormalisingRanker`.
    chat: a chat model's samples, by scenario, where one was asked.
    counts: training purchases of each item.
    wording: to choose templates with; None ranks what was built.
    split: "validation" or "test".
    limit: how many requests are ranked; all if None.
    permutations: orders of the candidates that a T3 model reads.
    normalisation: of the model's second row, if it is not the sum; or "select".
    seed: of samples, orders and the bootstrap.
  """

  folder: DatasetFolder
  rankers: dict[str, Any]
  chat: dict[str, ChatSample]
  counts: np.ndarray
  wording: selection.Wording | None
  split: str
  limit: int | None
  permutations: int
  normalisation: str
  seed: int

  def labels(self) -> dict[str, str]:
    """Returns how tables call the rows."""
    labels = {}
    for name, ranker in self.rankers.items():
      labels[name] = "zero-shot" if name == "zero_shot" else ranker.name
      if name == "model" and self._second_row:
        labels[self._second_row] = f"model ({self.normalisation})"
    for sample in self.chat.values():
      labels[CHAT] = sample.model
    return labels

  def block(
    self, scenario: Scenario, source: protocol.RequestSource
  ) -> blocks.Block:
    """Returns what a scenario adds to the results."""
    if self.wording is None:
      return self._block(scenario, source, form=None)
    model = self._as_protocol(self.rankers["model"], scenario)
    choice = selection.choose_template(
      scenario, model, wording=self.wording, limit=self.limit
    )
    source = self._find(scenario, self.split, form=choice.best)
    block = self._block(scenario, source, form=choice.best)
    report = selection.template_report(
      choice,
      model,
      wording=self.wording,
      split=self.split,
      limit=self.limit,
      of_best=_models_value(block, metric=scenario.metrics[0]),
    )
    return {**block, "templates": [report]}

  def _block(
    self,
    scenario: Scenario,
    source: protocol.RequestSource,
    *,
    form: Form | None,
  ) -> blocks.Block:
    make = self._pointwise if scenario.pointwise else self._ranking
    block = make(scenario, source, form)
    (description,) = block["scenarios"]
    description |= {
      "template": source.template,
      "permutations": self._orders(scenario),
      "matcher": matcher(scenario, folder=self.folder, split=self.split),
    }
    return block

  def _pointwise(
    self,
    scenario: Scenario,
    source: protocol.RequestSource,
    form: Form | None,
  ) -> blocks.Block:
    validation = None
    if "model" in self.rankers:
      validation = self._find(scenario, "validation", form=form)
    rankers = {
      name: ranker
      for name, ranker in self.rankers.items()
      if applies(name, scenario)
    }
    return blocks.pointwise_block(
      scenario, source, rankers, validation=validation, seed=self.seed
    )

  def _ranking(
    self,
    scenario: Scenario,
    source: protocol.RequestSource,
    form: Form | None,
  ) -> blocks.Block:
    second, choices = self.normalisation, []
    if second == SELECT:
      choices = [self._choose_normalisation(scenario, form)]
      second = choices[0]["chosen"]
    block = blocks.ranking_block(
      scenario,
      source,
      self._rows(scenario, second),
      counts=self.counts,
      chat=self.chat.get(scenario.name),
      retrieved=retrieved(scenario, folder=self.folder, split=self.split),
      by_position=scenario.lists_candidates and self._orders(scenario) == 1,
      seed=self.seed,
    )
    return {**block, "normalisations": choices}

  def _choose_normalisation(
    self, scenario: Scenario, form: Form | None
  ) -> dict[str, Any]:
    limit = selection.sample_size(scenario, self.limit)
    return selection.choose_normalisation(
      scenario,
      self.rankers["model"],
      wrap=functools.partial(self._as_protocol, scenario=scenario),
      source=self._find(scenario, "validation", form=form, limit=limit),
    )

  @property
  def _second_row(self) -> str:
    """The name of the model's second row, if it has one."""
    if self.normalisation == Normalisation.SUM:
      return ""
    return f"model_{self.normalisation}"

  def _rows(self, scenario: Scenario, second: str) -> dict[str, Ranker]:
    """Returns the rankers by row, the model's as the scenario wants it."""
    rows: dict[str, Ranker] = {}
    for name, ranker in self.rankers.items():
      if not applies(name, scenario):
        continue
      if name == "planted" and not scenario.history_alone and rows:
        # What is best by the history is no ceiling where more is known.
        continue
      if name not in _PROMPTED:
        # It can rank a hundred candidates as well as ten, in any order.
        rows[name] = ranker
      elif name != "model" or not self._second_row:
        rows[name] = self._as_protocol(ranker, scenario)
      else:
        shared = SharedScores(ranker, (Normalisation.SUM, second))
        by_sum, by_second = map(shared.ranker, (Normalisation.SUM, second))
        rows[name] = self._as_protocol(by_sum, scenario)
        rows[self._second_row] = self._as_protocol(by_second, scenario)
    return rows

  def _as_protocol(self, ranker: Ranker, scenario: Scenario) -> Ranker:
    """Wraps a ranker that reads prompts."""
    if self._orders(scenario) > 1:
      ranker = PermutedRanker(
        ranker, permutations=self.permutations, seed=self.seed
      )
    if scenario.tournament:
      ranker = TournamentRanker(ranker, seed=self.seed)
    return ranker

  def _orders(self, scenario: Scenario) -> int:
    """Returns how many orders of the candidates the model reads."""
    return self.permutations if scenario.family.endswith("_t3") else 1

  def _find(
    self,
    scenario: Scenario,
    split: str,
    *,
    form: Form | None,
    limit: int | None = None,
  ) -> protocol.RequestSource:
    """Returns requests in a form's words, or the built ones."""
    limit = limit or self.limit
    if form and self.wording:
      return self.wording.requests(
        scenario, form=form, split=split, limit=limit
      )
    return protocol.find_requests(
      scenario,
      folder=self.folder,
      split=split,
      need_text=not self.rankers.keys().isdisjoint(READERS),
      limit=limit,
      seed=self.seed,
    )


def _models_value(block: blocks.Block, *, metric: str) -> float:
  (value,) = [
    row["value"]
    for row in block["rows"]
    if row["ranker"] == "model" and row["metric"] == metric
  ]
  return value
