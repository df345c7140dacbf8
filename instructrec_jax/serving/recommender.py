"""A model that is loaded once and answers many requests."""

import asyncio
import dataclasses
import difflib
import functools
import inspect
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import numpy as np

from instructrec_jax.checkpoints import export_folder, model_folder
from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.generation.generator import Answer, Decoding, Generator
from instructrec_jax.instructions import conversation
from instructrec_jax.instructions.compose import Composed, shown_titles
from instructrec_jax.instructions.reasoning import said as said_before
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
from instructrec_jax.scoring.user_states import UserStates
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.serving.explanation import Explanation, explain
from instructrec_jax.serving.model_export import (
  TEMPLATES_FILE,
  catalogue,
  catalogue_images,
  exported_items,
)
from instructrec_jax.text.vocabulary import Vocabulary

# Scores that are no log-probabilities are made comparable over so many titles.
_SHARED = 100
_NO_CATALOGUE = (
  "there is no catalogue to recommend from: load the model with a dataset, or "
  "give candidates to rank."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
  """An answer to a conversation's last turn.

  Attributes:
    recommendation: the instruction and the titles, the best first.
    need: what the conversation has come to.
    given_up: words of it that no title was left for.
    scarce: words of the wish that no other titles have than some of those
      shown; see `conversation.Catalogue.scarce`.
    near: the titles shown that lack one of these.
    words: of the user, that the turns have come to; "" where only the history
      is left to go by.
  """

  recommendation: Recommendation
  need: conversation.Need
  given_up: tuple[str, ...]
  scarce: tuple[str, ...] = ()
  near: tuple[str, ...] = ()
  words: str = ""

  @property
  def shown(self) -> tuple[str, ...]:
    """The titles, the best first: the next turn is about them."""
    return tuple(each.title for each in self.recommendation.ranking)


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _in_turn(
  method: "Callable[Concatenate[Recommender, _P], _T]",
) -> "Callable[Concatenate[Recommender, _P], _T]":
  """Has calls from several threads wait for each other."""

  @functools.wraps(method)
  def call(
    recommender: "Recommender", /, *args: _P.args, **kwargs: _P.kwargs
  ) -> _T:
    with recommender._turn:
      return method(recommender, *args, **kwargs)

  return call


class Recommender:
  """Answers a user's own words (the paper's section 2.3.2).

  All methods but `stream` may be called from several threads. All but it and
  `generate` take a user's input alike: `instruction`, the user's own words;
  `history`, titles of the user's items, oldest first; `preference`, the lasting
  taste; `context`, where, when or what for; `kind` of the words: "preference",
  "vague", "specific" or "auto"; `template`, the name of the only one to
  consider; `by_id`, whether titles are given as item ids. Each raises
  InputError if the input is empty, no template fits, or a text is too long.

  Attributes:
    ranker: scores candidates.
    user_states: that are kept of instructions; None if none are.
    vocabulary: the model's.
    templates: to choose from.
    titles: the catalogue's distinct titles, as instructions show them; () if
      there is none.
    images: addresses of their pictures, of those that have one.
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
    images: Mapping[str, str] | None = None,
    name: str = "model",
    input_length: int = 512,
    batch_tokens: int | None = None,
    normalisation: str = Normalisation.SUM,
    title_counts: Mapping[str, int] | None = None,
    user_state_bytes: int = 0,
  ):
    """Takes a model in memory; `load` reads one from disk.

    Args:
      config: the model's sizes.
      params: its parameters.
      vocabulary: the one it was trained with.
      templates: to choose from; the package's if None.
      titles: the catalogue.
      item_ids: of the items with each of its titles.
      images: addresses of pictures, of the titles that have one.
      name: of the model, for display.
      input_length: tokens that an instruction may have.
      batch_tokens: tokens in a batch of the ranker, about.
      normalisation: of the scores: "sum", "mean" or "catalogue_prior".
      title_counts: training purchases of titles, for "catalogue_prior".
      user_state_bytes: of encoder states that are kept at most, for the next
        requests with the same model instruction, whatever their candidates;
        0 for none.

    Raises:
      InputError: the vocabulary does not fit the model, or a title is empty.
    """
    check_counts(least=2, input_length=input_length)
    check_counts(least=0, user_state_bytes=user_state_bytes)
    if batch_tokens is not None:
      check_counts(batch_tokens=batch_tokens)
    # Once, so that the ranker and the search share one copy on the device.
    params = jax.device_put(
      parameters.for_inference(config, params), jax.devices()[0]
    )
    self.user_states = None
    if user_state_bytes:
      self.user_states = UserStates(user_state_bytes)
    self.ranker = T5Ranker(
      config=config,
      params=params,
      vocabulary=vocabulary,
      batch_tokens=batch_tokens,
      normalisation=normalisation,
      title_counts=title_counts,
      user_states=self.user_states,
    )
    self.vocabulary = vocabulary
    self.templates = load_templates() if templates is None else [*templates]
    shown = shown_titles(titles, name="catalogue")
    self.titles = tuple(dict.fromkeys(shown))
    self._item_ids = {t: tuple(ids) for t, ids in (item_ids or {}).items()}
    self.images = dict(images or {})
    self.name = name
    self.input_length = input_length
    # One may call another.
    self._turn = threading.RLock()
    self._new_generator = functools.partial(
      Generator, config=config, params=params, vocabulary=vocabulary
    )
    # Of this object, not its class: which would keep it, and its parameters.
    self._generator = functools.cache(self._make_generator)
    self._new_search = functools.partial(
      CatalogueSearch,
      self.titles,
      config=config,
      params=params,
      vocabulary=vocabulary,
      normalisation=normalisation,
      title_counts=title_counts,
      batch=1,
      user_states=self.user_states,
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
    user_state_bytes: int = 0,
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
      user_state_bytes: of encoder states, see `Recommender`.

    Raises:
      InputError: there is no model, or one of its files is damaged.
    """
    folder = pathlib.Path(folder)
    config, params = model_folder.load_params(folder, step=step)
    name, items, images = folder.resolve().name, {}, {}
    if export_folder.is_export(folder):
      name = str(export_folder.read_manifest(folder).get("name", name))
      # A folder of `convert` has neither a catalogue nor templates.
      if (folder / TEMPLATES_FILE).is_file():
        items, images = exported_items(folder), catalogue_images(folder)
        templates = templates or (folder / TEMPLATES_FILE,)
    if dataset is not None:
      dataset = pathlib.Path(dataset)
      items, images = catalogue(dataset), catalogue_images(dataset)
    return cls(
      config=config,
      params=params,
      vocabulary=model_folder.load_vocabulary(folder),
      templates=load_templates(*templates or ()),
      titles=list(items),
      item_ids=items,
      images=images,
      name=name,
      input_length=input_length,
      batch_tokens=batch_tokens,
      normalisation=normalisation,
      title_counts=model_folder.load_title_counts(folder),
      user_state_bytes=user_state_bytes,
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
    return self.prepare(
      instruction,
      history=history,
      candidates=candidates,
      preference=preference,
      context=context,
      kind=kind,
      template=template,
      by_id=by_id,
    ).composed

  def prepare(
    self,
    instruction: str = "",
    *,
    history: Sequence[str] = (),
    candidates: Sequence[str] = (),
    by_id: bool = False,
    reason: bool = False,
    **said: Any,
  ) -> Recommendation:
    """Composes the model instruction, and has the model reason about it.

    Args:
      instruction: the user's own words.
      history: titles of the user's items, oldest first.
      candidates: titles to choose from.
      by_id: whether these are items' ids.
      reason: whether the model is to tell the taste first, see
        `instructions.reasoning`.
      **said: further arguments of `compose`.

    Returns:
      The instruction and the reasoning, without a ranking.
    """
    for name, words in {"instruction": instruction, **said}.items():
      if words is not None and not isinstance(words, str):
        raise InputError(f"the {name} is {words!r:.80}: a text is needed.")
    return recommend(
      instruction or "",
      write=self.write if reason else None,
      vocabulary=self.vocabulary,
      history=self._titles_of(history, "history", by_id=by_id),
      candidates=self._titles_of(candidates, "candidates", by_id=by_id),
      templates=self.templates,
      budget=self.input_length,
      **said,
    )

  def rank(
    self,
    instruction: str = "",
    *,
    candidates: Sequence[str],
    reason: bool = False,
    **said: Any,
  ) -> Recommendation:
    """Ranks candidates, each title once, the best first.

    Args:
      instruction: the user's own words.
      candidates: titles; listed in the model instruction if they fit.
      reason: whether the model is to tell the taste first, and to rank by what
        is likely behind its own words.
      **said: further arguments of `compose`.
    """
    asked = self._to_rank(
      instruction, candidates=candidates, reason=reason, **said
    )
    return self._ranked([asked])[0]

  async def arank(self, instruction: str = "", **said: Any) -> Recommendation:
    """Awaits `rank`, in a thread of its own."""
    return await asyncio.to_thread(self.rank, instruction, **said)

  def rank_many(
    self, wishes: Sequence[str | Mapping[str, Any]], **shared: Any
  ) -> list[Recommendation]:
    """Answers many wishes as `rank` does, scored together.

    Args:
      wishes: each the user's own words, or a dict of arguments of `rank`.
      **shared: arguments of `rank` for all that do not have their own.

    Raises:
      InputError: one cannot be answered, which it names.
    """
    return self._ranked(_each(wishes, shared, self._to_rank))

  def _to_rank(
    self,
    instruction: str = "",
    *,
    candidates: Any = None,
    reason: bool = False,
    **said: Any,
  ) -> Recommendation:
    """Returns what `rank` is asked, without the ranking."""
    _check_names(said, "rank")
    asked = self.prepare(
      instruction, candidates=candidates, reason=reason, **said
    )
    if not asked.composed.candidates:
      raise InputError("there is nothing to rank: give candidates.")
    return asked

  def _ranked(self, asked: Sequence[Recommendation]) -> list[Recommendation]:
    """Scores them in one call."""
    requests = [
      self.request(each.composed, each.composed.candidates, each.reasoning)
      for each in asked
    ]
    found = []
    for each, scores in zip(asked, self.ranker.score(requests), strict=True):
      ranking = self.ranking(
        each.composed.candidates, scores, denied=each.composed.denied
      )
      found.append(dataclasses.replace(each, ranking=ranking))
    return found

  @_in_turn
  def recommend(
    self,
    instruction: str = "",
    *,
    history: Sequence[str] = (),
    k: int = 10,
    reason: bool = False,
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
      reason: as in `rank`.
      **said: further arguments of `compose`, but not candidates.
    """
    if not self.titles:
      raise InputError(_NO_CATALOGUE)
    check_counts(k=k)
    _check_names(said, "recommend", but=("candidates",))
    asked = self.prepare(instruction, history=history, reason=reason, **said)
    composed = asked.composed
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
    before = [said_before(composed, asked.reasoning)] * len(excluded)
    for found in self._search.top(
      instructions, self._searched(k), excluded=excluded, said=before
    ):
      pairs = zip(found.titles, found.scores, strict=True)
      scores |= {int(number): float(score) for number, score in pairs}
    ranking = ranked(
      [self.titles[number] for number in scores],
      [*scores.values()],
      denied=composed.denied,
    )
    ranking = self._with_chances(ranking)[:k]
    return dataclasses.replace(asked, ranking=ranking)

  async def arecommend(
    self, instruction: str = "", **said: Any
  ) -> Recommendation:
    """Awaits `recommend`, in a thread of its own."""
    return await asyncio.to_thread(self.recommend, instruction, **said)

  def recommend_many(
    self, wishes: Sequence[str | Mapping[str, Any]], **shared: Any
  ) -> list[Recommendation]:
    """Answers many wishes as `recommend` does; see `rank_many`."""
    return _each(wishes, shared, self.recommend)

  def _searched(self, k: int) -> int:
    """Returns how many titles are to be found, of which k are returned."""
    is_sum = self.ranker.normalisation == Normalisation.SUM
    return k if is_sum else max(k, _SHARED)

  def _with_chances(self, ranking: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
    """Puts probabilities that depend on no other title, and item ids."""
    likely = np.array([each.log_likelihood for each in ranking])
    if self.ranker.normalisation != Normalisation.SUM and len(likely):
      likely -= np.logaddexp.reduce(likely[:_SHARED])
    chances = np.exp(np.minimum(likely, 0)).tolist()
    return tuple(
      dataclasses.replace(
        each, probability=chance, item_ids=self._item_ids.get(each.title, ())
      )
      for each, chance in zip(ranking, chances, strict=True)
    )

  @_in_turn
  def converse(
    self,
    turns: Sequence[conversation.Turn],
    *,
    history: Sequence[str] = (),
    k: int = 10,
    wording: Mapping[str, str] | None = None,
    **said: Any,
  ) -> Reply:
    """Answers the last turn of a conversation; see `conversation`.

    No title that was refused, chosen, likened to, or is of the history comes
    back. What the turns require or deny holds for every title, unless none
    would be left. Fewer than k may be found; of a wish for what there are
    fewer of, the others that come near are named, and come last.

    Args:
      turns: the oldest first; all but the last with what was shown.
      history: titles of the user's items, oldest first; what was chosen
        follows.
      k: how many titles.
      wording: of the instruction, see `conversation.compose_words`; the
        package's if None.
      **said: further arguments of `compose`, but neither candidates nor an
        instruction.

    Raises:
      InputError: as `recommend` does, the conversation has too many turns, or
        the catalogue lacks a title of one.
    """
    if not self.titles:
      raise InputError(_NO_CATALOGUE)
    check_counts(k=k)
    _check_names(said, "converse", but=("candidates",))
    turns = [self._known(each, n) for n, each in enumerate(turns, start=1)]
    need = conversation.read(turns, catalogue=self._words)
    worded: Mapping[str, str] = (
      conversation.load_turns()["composed"] if wording is None else wording
    )
    shown = turns[-2].shown if len(turns) > 1 else ()
    by_id = said.pop("by_id", False)
    had = [*self._titles_of(history, "history", by_id=by_id), *need.chosen]
    left_out = 0
    while True:
      words = conversation.compose_words(
        need, worded, shown=shown, left_out=left_out
      )
      # What is only denied is all that there is to go by.
      words = words or ("" if had else turns[-1].words)
      try:
        composed = self.compose(words, history=had, **said)
        break
      except InputError:
        # The oldest of what narrowed the wish goes first.
        if left_out >= len(need.words) + len(shown) + len(need.refused):
          raise
        left_out += 1
    gone = [*need.refused, *need.liked, *composed.slots.history]
    excluded = {self.index[title] for title in gone if title in self.index}
    left, given_up = self._words.fulfilling(need, excluded)
    every = range(len(self.titles))
    (found,) = self._search.top(
      [composed.instruction],
      self._searched(k),
      excluded=[frozenset(every).difference(left)],
    )
    ranking = ranked([self.titles[n] for n in found.titles], found.scores)
    ranking = self._with_chances(ranking)[:k]
    shown = [self.index[each.title] for each in ranking]
    scarce = self._words.scarce(need, left, shown)
    near = tuple(
      self.titles[number]
      for number in shown
      if not all(number in self._words.words[word] for word in scarce)
    )
    ranking = tuple(sorted(ranking, key=lambda each: each.title in near))
    return Reply(
      Recommendation(composed, ranking), need, given_up, scarce, near, words
    )

  @_in_turn
  def explain(
    self,
    instruction: str = "",
    *,
    candidates: Sequence[str] = (),
    words: int = 8,
    title: str | None = None,
    against: str | None = None,
    k: int = 10,
    **said: Any,
  ) -> Explanation:
    """Finds the parts of the input that a title is found for.

    Weights are against the whole catalogue, if there is one, or the title
    `against`: why this item, and not that one.

    Args:
      instruction: the user's own words.
      candidates: titles to rank; if there are none, the catalogue's top k.
      words: how many parts of the instruction to return.
      title: the one to explain; the best if None.
      against: the one to compare it with.
      k: titles of the catalogue to rank.
      **said: further arguments of `compose`.
    """
    _check_names(said, "explain")
    named = [
      None if each is None else shown_titles([each], name=name)[0]
      for name, each in (("title", title), ("against", against))
    ]
    if candidates is not None and len(candidates):
      composed = self.compose(instruction, candidates=candidates, **said)
      titles = composed.candidates
    else:
      found = self.recommend(instruction, k=k, **said)
      composed = found.composed
      titles = tuple(each.title for each in found.ranking)
      # One that was not found may be asked about.
      asked = [each for each in named if each in self.index]
      titles = tuple(dict.fromkeys([*titles, *asked]))
    return explain(
      composed,
      self.ranker,
      count_tokens=self.vocabulary.count_tokens,
      budget=self.input_length,
      words=words,
      titles=titles,
      catalogue=self.titles,
      title=named[0],
      against=named[1],
    )

  @_in_turn
  def generate(
    self,
    instructions: Sequence[str],
    *,
    only_titles: bool = False,
    **decoding: Any,
  ) -> list[tuple[Answer, ...]]:
    """Returns what the model writes for instructions, the best first.

    Args:
      instructions: as the model reads them, such as `compose` makes.
      only_titles: whether each answer is to be a title of the catalogue.
      **decoding: the fields of `generation.generator.Decoding`, such as
        `beams` or `temperature`.

    Raises:
      InputError: an instruction is too long, there is no such decoding, or no
        catalogue.
    """
    generator = self._generator(only_titles)
    return generator.generate(instructions, Decoding(**decoding))

  def stream(
    self, instruction: str, *, only_titles: bool = False, **decoding: Any
  ) -> Iterator[str]:
    """Yields what `generate` writes, piece by piece; the same arguments."""
    generator = self._generator(only_titles)
    return generator.stream(instruction, Decoding(**decoding))

  def request(
    self, composed: Composed, candidates: Sequence[str], reasoning: str = ""
  ) -> RankingRequest:
    """Returns a request to score, for scoring many in one batch.

    `reasoning` is what the model has said, as `prepare` returns it.
    """
    return ranking_request(composed, candidates, reasoning)

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

  def find(self, words: str) -> list[str]:
    """Returns the titles of the catalogue that have all of some words."""
    wanted = words.casefold().split()
    return [
      title
      for title, folded in zip(self.titles, self._folded, strict=True)
      if all(word in folded for word in wanted)
    ]

  @functools.cached_property
  def _folded(self) -> list[str]:
    return [title.casefold() for title in self.titles]

  def _known(self, turn: conversation.Turn, number: int) -> conversation.Turn:
    """Returns a turn with its titles as the catalogue has them."""
    if not isinstance(turn, conversation.Turn):
      raise InputError(f"turn {number} is {turn!r:.80}: a Turn is needed.")
    found = {}
    for name in ("shown", "refused", "chosen"):
      found[name] = tuple(shown_titles(getattr(turn, name), name=name))
      for title in found[name]:
        if title not in self.index:
          raise InputError(
            f"turn {number}, {name}: {title!r:.80} is no title of the "
            "catalogue."
          )
    return dataclasses.replace(turn, **found)

  def _titles_of(
    self, values: Sequence[str], name: str, *, by_id: bool
  ) -> list[str]:
    """Returns titles of any kind of list, or of the items with these ids."""
    if values is None:
      return []
    if isinstance(values, str | bytes):
      raise InputError(f"the {name} is a text: a list of titles is needed.")
    # Of which a list would have the columns, or their names.
    if hasattr(values, "columns"):
      raise InputError(f"the {name} is a table: give one column of it.")
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

  def write(self, instructions: Sequence[str]) -> list[str]:
    """Returns what the model writes, greedily; see `reasoning.reason`."""
    return [answer.text for answer, *_ in self.generate(instructions)]

  def _make_generator(self, only_titles: bool) -> Generator:
    if not only_titles:
      return self._new_generator()
    if not self.titles:
      raise InputError(
        "there is no catalogue to write titles of: load the model with a "
        "dataset."
      )
    return self._new_generator(titles=self.titles)

  @functools.cached_property
  def _search(self) -> CatalogueSearch:
    return self._new_search()

  @functools.cached_property
  def _words(self) -> conversation.Catalogue:
    return conversation.Catalogue.of(self.titles)

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Each title's index in `titles`."""
    return {title: number for number, title in enumerate(self.titles)}


def _each(
  wishes: Sequence[str | Mapping[str, Any]],
  shared: Mapping[str, Any],
  answer: Callable[..., Recommendation],
) -> list[Recommendation]:
  """Answers wishes one after the other, and says which it cannot."""
  if isinstance(wishes, str | Mapping):
    raise InputError("that is one wish: a list of wishes is needed.")
  if hasattr(wishes, "columns"):
    raise InputError("the wishes are a table: give a dict for each row.")
  found = []
  for number, wish in enumerate(wishes):
    said = wish if isinstance(wish, Mapping) else {"instruction": wish}
    try:
      found.append(answer(**{**shared, **said}))
    except InputError as error:
      raise InputError(f"wish {number}: {error}") from None
  return found


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
