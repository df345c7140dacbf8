"""What the HTTP routes answer, and compiling for it before the first one."""

import asyncio
import bisect
import collections
import contextlib
import dataclasses
import functools
import re
import time
import uuid
from collections.abc import (
  AsyncIterator,
  Callable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

import anyio.to_thread
import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.compose import Composed, shown_titles
from instructrec_jax.instructions.conversation import Turn
from instructrec_jax.instructions.recommend import Ranked
from instructrec_jax.records import RankingRequest
from instructrec_jax.serving import schemas
from instructrec_jax.serving.batcher import Batcher
from instructrec_jax.serving.conversations import Conversations
from instructrec_jax.serving.recommender import Recommender

# In tokens. Longer titles would need a shape that is slow to score, and more of
# them would hold up other requests.
MAX_TITLE_TOKENS = 95
MAX_TOKENS = 1 << 15
_MAY_BE_CUT = ' Send "truncate": true to have it cut.'

# Warm-up: (candidates, requests in a batch) of the paper's 10 candidates and
# of 100, with histories of these lengths.
_WARM_UP_BATCHES = ((10, 16), (10, 4), (10, 1), (100, 8), (100, 1))
_WARM_UP_HISTORIES = (0, 3, 6, 12)
_WARM_UP_REPEATS = 8
_LARGEST = (
  (schemas.MAX_HISTORY, 10),
  (schemas.MAX_HISTORY, schemas.MAX_DOCUMENTS),
)
# Histories that fill the encoder step by step.
_ENCODER_HISTORIES = (0, 8, 16, 32, 64, 128)
_WARM_UP_QUERY = "something of this kind"


class NoCatalogue(Exception):
  """The model was loaded without a catalogue to recommend from."""


@dataclasses.dataclass(frozen=True)
class Service:
  """Answers many requests at a time with one model.

  Attributes:
    recommender: the model.
    batcher: has the threads that compute with it.
    timeout: seconds that an answer may take.
    truncate: longer texts are cut unless a request says otherwise.
    images: titles of the catalogue come with their pictures' addresses.
    conversations: that `chat` answers.
  """

  recommender: Recommender
  batcher: Batcher
  timeout: float
  truncate: bool = False
  images: bool = False
  conversations: Conversations = dataclasses.field(
    default_factory=Conversations
  )

  async def rerank(
    self, asked: schemas.RerankRequest, version: str
  ) -> schemas.RankingAnswer:
    """Ranks documents.

    Raises:
      InputError: a text is too long and not to be cut, all documents are too
        long together, or no instruction can be composed.
      Overloaded: too many requests wait.
      TimeoutError: the answer takes too long.
    """
    async with self._slot():
      cut = await anyio.to_thread.run_sync(self._cut, asked)
      said = _arguments(asked)
      said["instruction"] = cut.query
      said["candidates"] = [title for title in cut.titles if title]
      prepare = functools.partial(
        self.recommender.prepare, reason=asked.reason, **said
      )
      # The model writes where it computes.
      run = self.batcher.call if asked.reason else anyio.to_thread.run_sync
      prepared = await run(prepare)
      composed = prepared.composed
      scores: Sequence[float] | np.ndarray = ()
      if composed.candidates:
        request = self.recommender.request(
          composed, composed.candidates, prepared.reasoning
        )
        scores = await self.batcher.score(request)
    ranking = self.recommender.ranking(
      composed.candidates, scores, denied=composed.denied
    )
    results = _of_documents(ranking, cut.titles)[: asked.top_n]
    if asked.return_documents:
      for result in results:
        text = cut.documents[result.index]
        result.document = schemas.Document(text=text)
    answer = self._answer(
      composed,
      results,
      version,
      composed.candidates,
      cut.warnings,
      prepared.reasoning,
    )
    if index := self.recommender.index:
      unknown = [title for title in cut.titles if title and title not in index]
      answer.unknown_documents = len(unknown)
    return answer

  async def recommend(
    self, asked: schemas.RecommendRequest
  ) -> schemas.RankingAnswer:
    """Ranks the catalogue; raises as `rerank` does, or NoCatalogue."""
    if not self.recommender.titles:
      raise NoCatalogue
    async with self._slot():
      call = functools.partial(
        self.recommender.recommend,
        **_arguments(asked),
        k=asked.top_n,
        reason=asked.reason,
      )
      found = await self.batcher.call(call)
    results = self._of_catalogue(found.ranking)
    shown = [each.title for each in found.ranking]
    return self._answer(
      found.composed, results, "1", shown, reasoning=found.reasoning
    )

  async def chat(self, asked: schemas.ChatRequest) -> schemas.ChatAnswer:
    """Answers the next turn of a conversation.

    A turn that is not answered is not kept.

    Raises:
      UnknownConversation: there is none of this id.
      InputError: and others, as `recommend` does.
    """
    if not self.recommender.titles:
      raise NoCatalogue
    if asked.turns is None:
      before = self.conversations.turns(asked.conversation)
    elif asked.conversation is None:
      before = [_turn(each, shown=each.shown) for each in asked.turns]
    else:
      raise InputError("give a conversation's id, or its turns, but not both.")
    turn = _turn(asked)
    said = _arguments(asked)
    del said["instruction"]
    async with self._slot():
      call = functools.partial(
        self.recommender.converse, [*before, turn], **said, k=asked.top_n
      )
      found = await self.batcher.call(call)
    name = None
    if asked.turns is None:
      turn = dataclasses.replace(turn, shown=found.shown)
      name = self.conversations.keep(asked.conversation, [*before, turn])
    composed, need = found.recommendation.composed, found.need
    results = self._of_catalogue(found.recommendation.ranking)
    answer = self._answer(composed, results, "1", found.shown)
    return schemas.ChatAnswer(
      **dict(answer),
      conversation=name,
      turn=len(before) + 1,
      wish=found.words,
      required=[[*each] for each in need.required],
      denied=[*need.denied],
      refused=[*need.refused],
      chosen=[*need.chosen],
      unread=need.unread,
      given_up=[*found.given_up],
      scarce=[*found.scarce],
      near=[*found.near],
    )

  async def explain(self, asked: schemas.ExplainRequest) -> schemas.Explanation:
    """Ranks with the words that weigh most; raises as `rerank` does.

    Raises:
      NoCatalogue: there are no documents, and no catalogue.
    """
    if not (asked.documents or self.recommender.titles):
      raise NoCatalogue
    async with self._slot():
      documents = await anyio.to_thread.run_sync(self._titles, asked.documents)
      call = functools.partial(
        self.recommender.explain,
        **_arguments(asked),
        candidates=documents,
        words=asked.words,
        title=asked.title,
        against=asked.against,
      )
      found = await self.batcher.call(call)
    composed, ranking = found.recommendation.composed, found.recommendation
    index, texts = self.recommender.index, self.recommender.titles
    if documents:
      index, texts = _index(composed.candidates), documents
    return schemas.Explanation(
      **self._instruction(composed),
      results=_results(ranking.ranking, index, texts=texts),
      title=found.title,
      against=found.against,
      weights=[
        schemas.WordWeight(**dataclasses.asdict(each)) for each in found.weights
      ],
      deletion=found.deletion
      and schemas.Deletion(**dataclasses.asdict(found.deletion)),
    )

  async def instruction(
    self, asked: schemas.InstructionRequest
  ) -> schemas.Instruction:
    """Composes an instruction, and ranks nothing; raises as `rerank` does."""

    def compose() -> Composed:
      titles = self._titles(asked.documents)
      return self.recommender.compose(**_arguments(asked), candidates=titles)

    async with self._slot():
      # Texts of the maximum length would block the event loop.
      composed = await anyio.to_thread.run_sync(compose)
    return schemas.Instruction(**self._instruction(composed))

  async def find(self, search: str, limit: int, offset: int) -> schemas.Items:
    """Returns titles of the catalogue that have all words of a text."""
    found = await anyio.to_thread.run_sync(self.recommender.find, search)
    page = found[offset : offset + limit]
    return schemas.Items(items=page, total=len(found))

  async def examples(self) -> schemas.Examples:
    """Returns wishes that the model can answer; none without a catalogue."""
    if not self.recommender.titles:
      return schemas.Examples(wishes=[], history=[])
    async with self._slot():
      return await self.batcher.call(lambda: examples(self.recommender))

  def _of_catalogue(self, ranking: Sequence[Ranked]) -> list[schemas.Result]:
    """Returns a ranking of the catalogue, with its titles."""
    ours = self.recommender
    results = _results(ranking, ours.index, texts=ours.titles)
    for result in results if self.images else ():
      if result.document:
        result.document.image = ours.images.get(result.document.text)
    return results

  def _instruction(self, composed: Composed) -> dict[str, Any]:
    index = self.recommender.index
    had = composed.slots.history if index else ()
    return {
      **composed.to_json(),
      "unknown_history": [title for title in had if title not in index],
    }

  @contextlib.asynccontextmanager
  async def _slot(self) -> AsyncIterator[None]:
    """Takes one of the places of waiting requests, until the timeout."""
    with self.batcher.slot():
      async with asyncio.timeout(self.timeout):
        yield

  def _cut(self, asked: schemas.RerankRequest) -> "_Cut":
    """Returns a request's texts, none too long.

    Raises:
      InputError: one is, and is not to be cut, or all are together.
    """
    truncate = self.truncate if asked.truncate is None else asked.truncate
    count = self.recommender.vocabulary.count_tokens
    documents, warnings = asked.texts(), []
    most = min(asked.max_tokens_per_doc or MAX_TITLE_TOKENS, MAX_TITLE_TOKENS)
    # Who says how many tokens a document may have wants it cut.
    may_cut = truncate or bool(asked.max_tokens_per_doc)
    titles, total = [], 0
    for number, text in enumerate(documents):
      try:
        (title,) = shown_titles([text[: MAX_TITLE_TOKENS * 40]], name="")
      except InputError:
        # Without a letter or a digit.
        titles.append("")
        continue
      where = f"documents[{number}]"
      long = _too_long(where, text, count, schemas.MAX_TITLE_LENGTH, most)
      if long and not may_cut:
        raise InputError(f"{long}.{_MAY_BE_CUT}")
      if long:
        warnings.append(f"{long}: cut.")
        title = _first_words(title[: schemas.MAX_TITLE_LENGTH], count, most)
      titles.append(title)
      total += count(title)
    if total > MAX_TOKENS:
      raise InputError(
        f"the documents have {total:,} tokens: at most {MAX_TOKENS:,} are "
        "ranked at a time."
      )
    query = asked.query
    longest = schemas.MAX_TEXT_LENGTH
    # What is left is for the template; titles that do not fit are not listed.
    budget = self.recommender.input_length * 3 // 4
    long = _too_long("query", query, count, longest, budget)
    if truncate and long:
      warnings.append(f"{long}: cut.")
      query = _first_words(query[:longest], count, budget)
    elif len(query) > longest:
      raise InputError(f"{long}.{_MAY_BE_CUT}")
    return _Cut(query, documents, titles, warnings)

  def _titles(self, documents: Sequence[str | schemas.Text]) -> list[str]:
    """Returns documents' titles, checked."""
    titles = [d if isinstance(d, str) else d.text for d in documents]
    first: dict[str, int] = {}
    for number, shown in enumerate(shown_titles(titles, name="documents")):
      before = first.setdefault(shown, number)
      if before != number:
        raise InputError(
          f"documents[{number}] is the same title as documents[{before}], "
          f"{shown!r:.80}: give each once."
        )
    counts = list(map(self.recommender.vocabulary.count_tokens, titles))
    for number, count in enumerate(counts):
      if count > MAX_TITLE_TOKENS:
        raise InputError(
          f"documents[{number}] has {count} tokens: titles of at most "
          f"{MAX_TITLE_TOKENS} are ranked."
        )
    if sum(counts) > MAX_TOKENS:
      raise InputError(
        f"the documents have {sum(counts):,} tokens: at most {MAX_TOKENS:,} "
        "are ranked at a time."
      )
    return titles

  def _answer(
    self,
    composed: Composed,
    results: list[schemas.Result],
    version: str,
    titles: Sequence[str],
    warnings: list[str] | None = None,
    reasoning: str = "",
  ) -> schemas.RankingAnswer:
    count = self.recommender.vocabulary.count_tokens
    # One more each: the end of sequence.
    tokens = sum(count(text) + 1 for text in (composed.instruction, *titles))
    return schemas.RankingAnswer(
      **self._instruction(composed),
      id=uuid.uuid4().hex,
      model=self.recommender.name,
      results=results,
      reasoning=reasoning or None,
      meta=schemas.Meta(
        api_version=schemas.ApiVersion(version=version),
        warnings=warnings or None,
      ),
      usage=schemas.Usage(total_tokens=tokens, prompt_tokens=tokens),
    )


def _arguments(asked: schemas.UserInput) -> dict[str, Any]:
  """Returns a user's input as arguments of `Recommender`'s methods."""
  return {
    "instruction": asked.query,
    "history": asked.history,
    "preference": asked.preference,
    "context": asked.context,
    "kind": asked.kind,
    "template": asked.template,
  }


def _turn(
  said: schemas.Turn | schemas.ChatRequest, shown: Sequence[str] = ()
) -> Turn:
  return Turn(
    said.query,
    shown=tuple(shown),
    refused=tuple(said.refused),
    chosen=tuple(said.chosen),
  )


@dataclasses.dataclass(frozen=True)
class _Cut:
  """Texts of a request, none of them too long.

  Attributes:
    query: the user's words.
    documents: as they were given.
    titles: of the documents, as instructions show them; "" if there is none.
    warnings: a sentence for each that was cut.
  """

  query: str
  documents: list[str]
  titles: list[str]
  warnings: list[str]


def _too_long(
  where: str, text: str, count: Callable[[str], int], longest: int, most: int
) -> str:
  """Returns how long a text is, if it is too long."""
  if len(text) > longest:
    return f"{where} has {len(text):,} characters, of at most {longest:,}"
  if (tokens := count(text)) > most:
    return f"{where} has {tokens:,} tokens, of at most {most}"
  return ""


def _first_words(text: str, count: Callable[[str], int], most: int) -> str:
  """Returns as many words of a text as have `most` tokens, or of one word
  as many characters."""
  parts = text.split()
  glue = " " if len(parts) > 1 and count(parts[0]) <= most else ""
  parts = parts if glue else list(text)
  sizes = range(len(parts) + 1)
  fitting = bisect.bisect_right(
    sizes, most, key=lambda size: count(glue.join(parts[:size]))
  )
  return glue.join(parts[: fitting - 1]).rstrip(" ,:")


def _of_documents(
  ranking: Sequence[Ranked], titles: Sequence[str]
) -> list[schemas.Result]:
  """Returns a result for each document; the same title shares its score."""
  places: dict[str, list[int]] = {}
  for number, title in enumerate(titles):
    places.setdefault(title, []).append(number)
  results = [
    schemas.Result(
      index=number,
      relevance_score=each.probability,
      log_likelihood=each.log_likelihood,
    )
    for each in ranking
    for number in places[each.title]
  ]
  empty = places.get("", [])
  return results + [schemas.Result(index=n, relevance_score=0.0) for n in empty]


def _index(titles: Sequence[str]) -> dict[str, int]:
  return {title: number for number, title in enumerate(titles)}


def _results(
  ranking: Sequence[Ranked],
  index: Mapping[str, int],
  *,
  texts: Sequence[str],
) -> list[schemas.Result]:
  """Returns the ranking by index, with documents if `texts` are given."""
  return [
    schemas.Result(
      index=(number := index[each.title]),
      relevance_score=each.probability,
      log_likelihood=each.log_likelihood,
      document=schemas.Document(text=texts[number]) if texts else None,
    )
    for each in ranking
  ]


# Wishes of a page's visitor to begin with, and how many words are tried.
_EXAMPLES = 4
_TRIED = 16
_EXAMPLE_WISHES = ("{} please", "looking for {}", "show me {}", "{}")


@functools.lru_cache(maxsize=4)
def examples(recommender: Recommender) -> schemas.Examples:
  """Returns wishes for words that titles share, and that the model knows.

  Each was asked: at least two of its three best titles have the word. There may
  be none, as of a model that has learned little.
  """
  titles = recommender.titles
  shared: collections.Counter[str] = collections.Counter()
  for title in titles:
    shared.update({w for w in re.findall(r"[^\W\d_]{4,}", title)})
  # Neither rare nor what nearly all have: those of middling frequency first.
  rng = np.random.default_rng(0)
  middling = [
    word for word, n in shared.items() if 3 <= n <= max(len(titles) // 10, 3)
  ]
  wishes: list[str] = []
  for word in rng.permutation(sorted(middling))[:_TRIED].tolist():
    wish = _EXAMPLE_WISHES[len(wishes)].format(word.lower())
    with contextlib.suppress(InputError):
      best = recommender.recommend(wish, k=3).ranking
      if sum(word in each.title for each in best) >= min(2, len(best)):
        wishes.append(wish)
    if len(wishes) == _EXAMPLES:
      break
  drawn = rng.permutation(len(titles))[:2]
  return schemas.Examples(wishes=wishes, history=[titles[n] for n in drawn])


def warm_up(
  recommender: Recommender, tell: Callable[[str], object] = lambda line: None
) -> None:
  """Compiles all shapes that answers need, for large batches and small.

  Args:
    recommender: whose ranker and search compile.
    tell: called with a line before each step.
  """
  started = time.monotonic()
  steps = list(_warm_up_steps(recommender))
  for number, (what, step) in enumerate(steps, start=1):
    seconds = time.monotonic() - started
    tell(f"compiling, step {number} of {len(steps)}: {what} ({seconds:.0f} s)")
    step()


def try_out(recommender: Recommender) -> None:
  """Scores a request, so that a model that cannot is found out at once.

  Raises:
    InputError: its scores are no numbers.
  """
  titles = recommender.titles or _made_up_titles(recommender)
  if requests := _requests(recommender, titles, range(10), had=0):
    recommender.ranker.score(requests)


def _warm_up_steps(
  recommender: Recommender,
) -> Iterator[tuple[str, Callable[[], object]]]:
  """Yields what is compiled next, and a function that does so."""
  titles = recommender.titles or _made_up_titles(recommender)
  rng = np.random.default_rng(0)
  ranker = recommender.ranker
  for offered, batch in _WARM_UP_BATCHES:
    if typical := list(_typical(recommender, titles, offered, rng)):

      def score(typical=typical, batch=batch) -> None:
        ranker.add_shape(typical, together=batch)
        ranker.score(typical[:batch])

      yield f"{offered} titles, {batch} requests at a time", score
  for had, offered in _LARGEST:
    requests = _requests(recommender, titles, range(had + offered), had)
    if requests:
      yield (
        f"{offered} titles, a history of {had}",
        functools.partial(ranker.score, requests),
      )
  if recommender.titles:
    yield "wishes to show", functools.partial(examples, recommender)
  yield "what weighs most", functools.partial(_explain, recommender, titles)
  # Instructions of every length, with as many results as are allowed.
  for had in _ENCODER_HISTORIES if recommender.titles else ():
    yield (
      f"the whole catalogue, a history of {had}",
      functools.partial(_recommend, recommender, had),
    )


def _explain(recommender: Recommender, titles: Sequence[str]) -> None:
  with contextlib.suppress(InputError):
    recommender.explain(_WARM_UP_QUERY, candidates=titles[:10])


def _recommend(recommender: Recommender, had: int) -> None:
  with contextlib.suppress(InputError):
    recommender.recommend(
      _WARM_UP_QUERY,
      history=recommender.titles[:had],
      k=schemas.MAX_RECOMMENDED,
    )


def _typical(
  recommender: Recommender,
  titles: Sequence[str],
  offered: int,
  rng: np.random.Generator,
) -> Iterator[RankingRequest]:
  for _ in range(_WARM_UP_REPEATS):
    for had in _WARM_UP_HISTORIES:
      numbers = rng.choice(len(titles), had + offered)
      yield from _requests(recommender, titles, numbers, had)


def _requests(
  recommender: Recommender,
  titles: Sequence[str],
  numbers: Iterable[int],
  had: int,
) -> list[RankingRequest]:
  """Returns a request of some titles, or none if no template fits."""
  drawn = [titles[number % len(titles)] for number in numbers]
  # Numbered, since a small catalogue repeats them.
  candidates = [f"{title} {place}" for place, title in enumerate(drawn[had:])]
  try:
    composed = recommender.compose(
      _WARM_UP_QUERY, history=drawn[:had], candidates=candidates
    )
  except InputError:
    return []
  return [recommender.request(composed, composed.candidates)]


def _made_up_titles(recommender: Recommender) -> list[str]:
  vocabulary = recommender.vocabulary
  rng = np.random.default_rng(0)
  ids = rng.integers(3, vocabulary.num_pieces, (200, 8))
  return [f"Item {n} {vocabulary.decode(row)}" for n, row in enumerate(ids)]
