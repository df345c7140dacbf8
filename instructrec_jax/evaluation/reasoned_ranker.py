"""The model as a ranker that reasons first: what does that gain or cost?

A chain-of-thought template shows a history alone, and most templates of the
same wish list the candidates. So that the list is not taken for the words, the
model is asked without either, too.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from instructrec_jax import storage
from instructrec_jax.data.folder import (
  BUILT,
  INSTRUCTIONS_FILE,
  TEMPLATES_FILE,
  DatasetFolder,
)
from instructrec_jax.errors import InputError
from instructrec_jax.generation.generator import Decoding, Generator
from instructrec_jax.instructions.aspects import Response, TaskForm
from instructrec_jax.instructions.reasoning import answered
from instructrec_jax.instructions.render import (
  Slots,
  display_titles,
  render,
)
from instructrec_jax.instructions.templates import Form, load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker

_ANSWER = Decoding().max_tokens


class _AskedAnew:
  """Asks requests by a history alone, and without a list of the candidates."""

  response: Response

  def __init__(
    self,
    *,
    form: Form,
    titles: Sequence[str],
    input_length: int,
    answer_length: int = _ANSWER,
    **model: Any,
  ):
    """Takes a model.

    Args:
      form: of a template that shows a history alone, with `response`.
      titles: of the items, by their numbers.
      input_length: tokens that an instruction may have.
      answer_length: tokens that the model may write.
      **model: the arguments of `T5Ranker`.
    """
    self._form, self._titles = form, titles
    self._input_length, self._answer_length = input_length, answer_length
    self._count_tokens = model["vocabulary"].count_tokens
    self._ranker = T5Ranker(**model)
    self.num_parameters = self._ranker.num_parameters

  @classmethod
  def load(
    cls,
    model_dir: pathlib.Path,
    *,
    folder: DatasetFolder,
    load: Callable[..., T5Ranker] = T5Ranker.load,
  ) -> Self:
    """Loads a folder of `train` or `export`, for a built dataset folder.

    Args:
      model_dir: of either kind.
      folder: the dataset's.
      load: returns a ranker, whose parameters are shared.

    Raises:
      InputError: there is no model, or the folder's templates have none of
        the kind.
    """
    file = folder.path / TEMPLATES_FILE
    forms = [
      form
      for template in load_templates(file if file.exists() else "package")
      for form in template.forms
      if template.response == cls.response
      and template.task_form == TaskForm.MATCHING
      and form.slots == {"history"}
    ]
    if not forms:
      raise InputError(
        f"{file}: no template whose response is {cls.response} shows a history "
        "alone, so that the model was taught none: leave --reason out."
      )
    manifest, built = folder.path / INSTRUCTIONS_FILE, {}
    if manifest.exists():
      built = storage.read_json(manifest, BUILT)["options"]
    return cls(
      form=forms[0],
      titles=display_titles(folder.items),
      input_length=built.get("input_length", 512),
      # What it was taught to write, with room for a title behind it.
      answer_length=min(max(built.get("target_length", 0), _ANSWER), 768),
      **load(model_dir).model,
    )

  def _asked(self, requests: Sequence[RankingRequest]) -> list[RankingRequest]:
    return [
      dataclasses.replace(
        request,
        instruction=render(
          self._form,
          Slots(history=[self._titles[item] for item in request.history_items]),
          count_tokens=self._count_tokens,
          budget=self._input_length,
        ).text,
      )
      for request in requests
    ]


class Unlisted(_AskedAnew):
  """Ranks by an item alone, as the model answers without reasoning."""

  name = "model, no list"
  response = Response.ITEM

  @property
  def ranker(self) -> T5Ranker:
    """What counts its costs; see `costs.Metered`."""
    return self._ranker

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns log P(candidate | instruction), of each request asked anew."""
    return self._ranker.score(self._asked(requests))


class ReasonedRanker(_AskedAnew):
  """Has a model tell the taste, and ranks by what follows its own words."""

  name = "model, reasoning"
  response = Response.REASONED_ITEM

  def __init__(self, **arguments: Any):
    """Takes the same arguments."""
    super().__init__(**arguments)
    self._generator = Generator(**self._ranker.model)

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns log P(candidate | instruction, the model's own words)."""
    asked = self._asked(requests)
    answers = self._generator.generate(
      [each.instruction for each in asked],
      Decoding(max_tokens=self._answer_length),
    )
    reasoned = [
      answered(request, answer.text)
      for request, (answer, *_) in zip(asked, answers, strict=True)
    ]
    return self._ranker.score(reasoned)
