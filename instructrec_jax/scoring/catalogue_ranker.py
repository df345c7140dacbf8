"""The exact catalogue search as a ranker of requests."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import check_counts
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.catalogue import CatalogueSearch


class CatalogueRanker:
  """Requests whose candidates are a catalogue: the top exact, the rest last.

  Metrics up to the K-th place are those of scoring every candidate.
  """

  name = "catalogue"

  def __init__(self, *, k: int = 20, **options: Any):
    """Takes the options of `CatalogueSearch`, and how many are ranked.

    Raises:
      InputError: fewer than 1 are to be ranked.
    """
    check_counts(k=k)
    self._k, self._options = k, options
    self._numbers: dict[str, int] = {}
    self._search: CatalogueSearch | None = None
    self.nodes: list[int] = []
    self.num_parameters = sum(
      leaf.size for leaf in jax.tree.leaves(options.get("params"))
    )

  @classmethod
  def load(
    cls,
    model_dir: pathlib.Path,
    *,
    step: int | str | None = None,
    k: int = 20,
    **options: Any,
  ) -> "CatalogueRanker":
    """Loads a folder of `train`; see `model_folder.load_params`.

    Raises:
      InputError: the folder holds no model, or no such step of it.
    """
    config, params = model_folder.load_params(model_dir, step=step)
    vocabulary = model_folder.load_vocabulary(model_dir)
    return cls(
      k=k,
      config=config,
      params=params,
      vocabulary=vocabulary,
      title_counts=model_folder.load_title_counts(model_dir),
      **options,
    )

  @property
  def num_nodes(self) -> int:
    """Nodes of the trie that is searched; `nodes` tells how many were read."""
    return len(self._search.trie.tokens) if self._search else 0

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns log-likelihoods of each request's top K, -inf for the rest.

    Raises:
      InputError: an instruction is too long.
    """
    if not requests:
      return []
    asked = {title for request in requests for title in request.candidates}
    if self._search is None or not asked <= self._numbers.keys():
      titles = sorted(asked | self._numbers.keys())
      self._numbers = {title: number for number, title in enumerate(titles)}
      self._search = CatalogueSearch(titles, **self._options)
    numbers = self._numbers
    everything = frozenset(numbers.values())
    candidates = [[numbers[t] for t in r.candidates] for r in requests]
    found = self._search.top(
      [request.instruction for request in requests],
      self._k,
      excluded=[everything.difference(of) for of in candidates],
      said=[request.said for request in requests],
    )
    scores = []
    for of_request, top in zip(candidates, found, strict=True):
      by_number = np.full(len(numbers), -np.inf)
      by_number[top.titles] = top.scores
      scores.append(by_number[of_request])
      self.nodes.append(top.nodes)
    return scores
