"""A model that is loaded once and answers many requests."""

import dataclasses
import difflib
import functools
import inspect
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from instructrec_jax.checkpoints import export_folder, model_folder
from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.instructions.compose import Composed, shown_titles
from instructrec_jax.instructions.recommend import (
  Ranked,
  Recommendation,
  denies,
  ranked,
  ranking_request,
  recommend,
)
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.catalogue import CatalogueSearch
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.serving.explanation import Explanation, explain
from instructrec_jax.serving.model_export import (
  TEMPLATES_FILE,
  catalogue,
  exported_items,
)
from instructrec_jax.text.vocabulary import Vocabulary

# Scores that are no log-probabilities are made comparable over so many titles.
_SHARED = 100


class Recommender:
  """Answers a user's own words (the paper's section 2.3.2).

  `recommend` and `explain` are for one thread at a time, the other methods are
  thread-safe. All take a user's input alike: `instruction`, the user's own
  words; `history`, titles of the user's items, oldest first; `preference`, the
  lasting taste; `context`, where, when or what for; `kind` of the words:
  "preference", "vague", "specific" or "auto"; `template`, the name of the only
  one to consider. Each raises InputError if the input is empty, no template
  fits, or a text is too long.

  Attributes:
    ranker: scores candidates.
    vocabulary: the model's.
    templates: to choose from.
    titles: the catalogue's distinct titles, as instructions show them; () if
      there is none.
    name: of the model, for display.
    input_length: tokens that an instruction may have.
  """

  def __init__(
    self,
    *,
    config: T5Config,
    params: Any,
    vocabulary: Vocabulary,
    templates: Sequence[Template] | None = None,
    titles: Sequence[str] = (),
    item_ids: Mapping[str, Sequence[str]] | None = None,
    name: str = "model",
    input_length: int = 512,
    batch_tokens: int | None = None,
    normalisation: str = Normalisation.SUM,
    title_counts: Mapping[str, int] | None = None,
  ):
    """Takes a model in memory; `load` reads one from disk.

    Args:
      config: the model's sizes.
      params: its parameters.
      vocabulary: the one it was trained with.
      templates: to choose from; the package's if None.
      titles: the catalogue.
      item_ids: of the items with each of its titles.
      name: of the model, for display.
      input_length: tokens that an instruction may have.
      batch_tokens: tokens in a batch of the ranker, about.
      normalisation: of the scores: "sum", "mean" or "catalogue_prior".
      title_counts: training purchases of titles, for "catalogue_prior".

    Raises:
      InputError: the vocabulary does not fit the model, or a title is empty.
    """
    check_counts(least=2, input_length=input_length)
    if batch_tokens is not None:
      check_counts(batch_tokens=batch_tokens)
    # Once, so that the ranker and the search share one copy on the device.
    params = jax.device_put(params, jax.devices()[0])
    self.ranker = T5Ranker(
      config=config,
      params=params,
      vocabulary=vocabulary,
      batch_tokens=batch_tokens,
      normalisation=normalisation,
      title_counts=title_counts,
    )
    self.vocabulary = vocabulary
    self.templates = load_templates() if templates is None else [*templates]
    shown = shown_titles(titles, name="catalogue")
    self.titles = tuple(dict.fromkeys(shown))
    self._item_ids = {t: tuple(ids) for t, ids in (item_ids or {}).items()}
    self.name = name
    self.input_length = input_length
    self._new_search = functools.partial(
      CatalogueSearch,
      self.titles,
      config=config,
      params=params,
      vocabulary=vocabulary,
      normalisation=normalisation,
      title_counts=title_counts,
      batch=1,
    )

  @classmethod
  def load(
    cls,
    folder: pathlib.Path | str,
    *,
    dataset: pathlib.Path | str | None = None,
    templates: Sequence[str | pathlib.Path] | None = None,
    step: int | str | None = None,
    input_length: int = 512,
    batch_tokens: int | None = None,
    normalisation: str = Normalisation.SUM,
  ) -> "Recommender":
    """Loads a folder of `train` or of `export`.

    Args:
      folder: of either kind.
      dataset: the dataset folder whose items are the catalogue, in place of
        the export's own.
      templates: names or files, see `load_templates`; if None, the export's
        own, else the package's.
      step: of a folder of `train`: a number, "best", or None for the latest.
      input_length: tokens that an instruction may have.
      batch_tokens: tokens in a batch of the ranker, about.
      normalisation: of the scores, see `Recommender`; the folder has the
        titles' purchases if it was trained on packed rows that had them.

    Raises:
      InputError: there is no model, or one of its files is damaged.
    """
    folder = pathlib.Path(folder)
    config, params = model_folder.load_params(folder, step=step)
    name, items = folder.resolve().name, {}
    if export_folder.is_export(folder):
      name = str(export_folder.read_manifest(folder).get("name", name))
      # A folder of `convert` has neither a catalogue nor templates.
      if (folder / TEMPLATES_FILE).is_file():
        items = exported_items(folder)
        templates = templates or (folder / TEMPLATES_FILE,)
    if dataset is not None:
      items = catalogue(pathlib.Path(dataset))
    return cls(
      config=config,
      params=params,
      vocabulary=model_folder.load_vocabulary(folder),
      templates=load_templates(*templates or ()),
      titles=list(items),
      item_ids=items,
      name=name,
      input_length=input_length,
      batch_tokens=batch_tokens,
      normalisation=normalisation,
      title_counts=model_folder.load_title_counts(folder),
    )

  def __repr__(self) -> str:
    """Says which model it is, how large, and what it can recommend."""
    parameters = self.ranker.num_parameters
    return (
      f"Recommender({self.name!r}: {parameters:,} parameters, "
      f"{len(self.titles):,} titles)"
    )

  def compose(
    self,
    instruction: str = "",
    *,
    history: Sequence[str] = (),
    candidates: Sequence[str] = (),
    preference: str | None = None,
    context: str | None = None,
    kind: str = "auto",
    template: str | None = None,
    by_id: bool = False,
  ) -> Composed:
    """Composes the model instruction; see `instructions.compose.compose`."""
    return recommend(
      instruction,
      vocabulary=self.vocabulary,
      history=self._titles_of(history, "history", by_id=by_id),
      candidates=self._titles_of(candidates, "candidates", by_id=by_id),
      preference=preference,
      context=context,
      kind=kind,
      template=template,
      templates=self.templates,
      budget=self.input_length,
    ).composed

  def rank(
    self, instruction: str = "", *, candidates: Sequence[str], **said: Any
  ) -> Recommendation:
    """Ranks candidates, each title once, the best first.

    Args:
      instruction: the user's own words.
      candidates: titles; listed in the model instruction if they fit.
      **said: further arguments of `compose`.
    """
    _check_names(said, "rank")
    if candidates is None or not len(candidates):
      raise InputError("there is nothing to rank: give candidates.")
    composed = self.compose(instruction, candidates=candidates, **said)
    request = self.request(composed, composed.candidates)
    (scores,) = self.ranker.score([request])
    ranking = self.ranking(composed.candidates, scores, denied=composed.denied)
    return Recommendation(composed, ranking)

  def recommend(
    self,
    instruction: str = "",
    *,
    history: Sequence[str] = (),
    k: int = 10,
    **said: Any,
  ) -> Recommendation:
    """Returns the exact top k of the catalogue, without the history.

    A probability is that of the title as the model's answer, among all that
    it might write: it depends on neither `k` nor the other titles. Under
    another normalisation than "sum", it is the title's share among the best
    100, whatever `k` is.

    Args:
      instruction: the user's own words.
      history: titles of the user's items, oldest first.
      k: how many titles; fewer if the catalogue has fewer.
      **said: further arguments of `compose`, but not candidates.
    """
    if not self.titles:
      raise InputError(
        "there is no catalogue to recommend from: load the model with a "
        "dataset, or give candidates to rank."
      )
    check_counts(k=k)
    _check_names(said, "recommend", but=("candidates",))
    composed = self.compose(instruction, history=history, **said)
    had = composed.slots.history
    numbers = {self.index[title] for title in had if title in self.index}
    # A denied title is among the best of all, or not among the best k.
    excluded = [numbers]
    if denied := {
      number
      for number, title in enumerate(self.titles)
      if denies(title, composed.denied)
    }:
      excluded.append(numbers | denied)
    scores: dict[int, float] = {}
    instructions = [composed.instruction] * len(excluded)
    is_sum = self.ranker.normalisation == Normalisation.SUM
    searched = k if is_sum else max(k, _SHARED)
    for found in self._search.top(instructions, searched, excluded=excluded):
      pairs = zip(found.titles, found.scores, strict=True)
      scores |= {int(number): float(score) for number, score in pairs}
    ranking = ranked(
      [self.titles[number] for number in scores],
      [*scores.values()],
      denied=composed.denied,
    )
    likely = np.array([each.log_likelihood for each in ranking])
    if not is_sum:
      likely -= np.logaddexp.reduce(likely[:_SHARED])
    chances = np.exp(np.minimum(likely, 0)).tolist()
    return Recommendation(
      composed,
      tuple(
        dataclasses.replace(
          each, probability=chance, item_ids=self._item_ids.get(each.title, ())
        )
        for each, chance in zip(ranking[:k], chances, strict=False)
      ),
    )

  def explain(
    self,
    instruction: str = "",
    *,
    candidates: Sequence[str],
    words: int = 8,
    **said: Any,
  ) -> Explanation:
    """Ranks candidates and finds the parts of the input that weigh most.

    Args:
      instruction: the user's own words.
      candidates: titles, at least two that differ.
      words: how many parts of the instruction to return.
      **said: further arguments of `compose`.
    """
    _check_names(said, "explain")
    composed = self.compose(instruction, candidates=candidates, **said)
    return explain(
      composed,
      self.ranker,
      count_tokens=self.vocabulary.count_tokens,
      budget=self.input_length,
      words=words,
    )

  def request(
    self, composed: Composed, candidates: Sequence[str]
  ) -> RankingRequest:
    """Returns a request to score, for scoring many in one batch."""
    return ranking_request(composed, candidates)

  def ranking(
    self,
    candidates: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    *,
    denied: Sequence[str] = (),
  ) -> tuple[Ranked, ...]:
    """Returns candidates in the order of their scores, the best first.

    `denied` are the words that `compose` found not to be wanted.
    """
    return tuple(
      dataclasses.replace(each, item_ids=self._item_ids.get(each.title, ()))
      for each in ranked(candidates, scores, denied=denied)
    )

  def _titles_of(
    self, values: Sequence[str], name: str, *, by_id: bool
  ) -> list[str]:
    """Returns titles of any kind of list, or of the items with these ids."""
    if isinstance(values, str | bytes):
      raise InputError(f"the {name} is a text: a list of titles is needed.")
    # numpy's texts are texts of Python, too.
    listed = [str(v) if isinstance(v, str) else v for v in values]
    if not by_id:
      return listed
    titles = []
    for value in listed:
      title = self._by_id.get(str(value))
      if title is None:
        raise InputError(
          f"the {name}: the catalogue has no item {str(value)!r:.80}."
        )
      titles.append(title)
    return titles

  @functools.cached_property
  def _by_id(self) -> dict[str, str]:
    """Each item's title, by its id."""
    return {
      item_id: title
      for title, item_ids in self._item_ids.items()
      for item_id in item_ids
    }

  @functools.cached_property
  def _search(self) -> CatalogueSearch:
    return self._new_search()

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Each title's index in `titles`."""
    return {title: number for number, title in enumerate(self.titles)}


def _check_names(
  said: Mapping[str, Any], method: str, but: Sequence[str] = ()
) -> None:
  """Raises TypeError for an argument that the method called does not have."""
  parameters = inspect.signature(Recommender.compose).parameters
  names = [n for n in parameters if n not in ("self", *but)]
  for name in said:
    if name not in names:
      close = difflib.get_close_matches(name, names, n=1)
      hint = f"; did you mean {close[0]}?" if close else ""
      raise TypeError(
        f"Recommender.{method}() got an unexpected argument {name!r}{hint}"
      )
