"""The model as a writer of turned-around tasks; see `writing`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrec_jax.evaluation.writing import FOUND
from instructrec_jax.generation.generator import Decoding, Generator
from instructrec_jax.scoring.catalogue import CatalogueSearch
from instructrec_jax.scoring.reranker import T5Ranker


class ModelWriter:
  """A model that writes, and searches with what was written."""

  def __init__(self, ranker: T5Ranker):
    """Takes the model of a ranker, and shares its parameters."""
    self._model: dict[str, Any] = ranker.model
    self._generator = Generator(**self._model)
    self._searches: dict[tuple[str, ...], CatalogueSearch] = {}

  def write(self, instructions: Sequence[str], max_tokens: int) -> list[str]:
    """Returns the answers, greedily."""
    decoding = Decoding(max_tokens=max_tokens)
    answers = self._generator.generate(instructions, decoding)
    return [answer.text for (answer,) in answers]

  def finds(
    self, instructions: Sequence[str], titles: Sequence[str], items: list[int]
  ) -> np.ndarray:
    """Returns for each whether the item's title is among the best ten."""
    key = tuple(dict.fromkeys(titles))
    if key not in self._searches:
      self._searches[key] = CatalogueSearch(key, **self._model)
    found = self._searches[key].top(instructions, FOUND)
    return np.array(
      [
        titles[item] in {key[number] for number in of.titles}
        for of, item in zip(found, items, strict=True)
      ],
      float,
    )
