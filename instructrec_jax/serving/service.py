"""What the HTTP routes answer, and compiling for it before the first one."""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import uuid
from collections.abc import (
  AsyncIterator,
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
    conversations: that `chat` answers.
  """

  recommender: Recommender
  batcher: Batcher
  timeout: float
  conversations: Conversations = dataclasses.field(
    default_factory=Conversations
  )

  async def rerank(
    self, asked: schemas.RerankRequest, version: str
  ) -> schemas.RankingAnswer:
    """Ranks documents.

    Raises:
      InputError: a document is empty, too long or given twice, all are too
        long together, or no instruction can be composed.
      Overloaded: too many requests wait.
      TimeoutError: the answer takes too long.
    """
    async with self._slot():
      documents, composed = await self._compose(asked, asked.documents)
      request = self.recommender.request(composed, composed.candidates)
      scores = await self.batcher.score(request)
    ranking = self.recommender.ranking(
      composed.candidates, scores, denied=composed.denied
    )
    results = _results(
      ranking[: asked.top_n],
      _index(composed.candidates),
      texts=documents if asked.return_documents else (),
    )
    return self._answer(composed, results, version, composed.candidates)

  async def recommend(
    self, asked: schemas.RecommendRequest
  ) -> schemas.RankingAnswer:
    """Ranks the catalogue; raises as `rerank` does, or NoCatalogue."""
    if not self.recommender.titles:
      raise NoCatalogue
    async with self._slot():
      call = functools.partial(
        self.recommender.recommend, **_arguments(asked), k=asked.top_n
      )
      found = await self.batcher.call(call)
    results = _results(
      found.ranking, self.recommender.index, texts=self.recommender.titles
    )
    shown = [each.title for each in found.ranking]
    return self._answer(found.composed, results, "1", shown)

  async def chat(self, asked: schemas.ChatRequest) -> schemas.ChatAnswer:
    """Answers the next turn of a conversation.

    A turn that is not answered is not kept.

    Raises:
      UnknownConversation: there is none of this id.
      InputError: and others, as `recommend` does.
    """
    if not self.recommender.titles:
      raise NoCatalogue
    before = self.conversations.turns(asked.conversation)
    turn = Turn(
      asked.query,
      refused=self._known(asked.refused, "refused"),
      chosen=self._known(asked.chosen, "chosen"),
    )
    said = _arguments(asked)
    del said["instruction"]
    async with self._slot():
      call = functools.partial(
        self.recommender.converse, [*before, turn], **said, k=asked.top_n
      )
      found = await self.batcher.call(call)
    turn = dataclasses.replace(turn, shown=found.shown)
    name = self.conversations.keep(asked.conversation, [*before, turn])
    composed, need = found.recommendation.composed, found.need
    results = _results(
      found.recommendation.ranking,
      self.recommender.index,
      texts=self.recommender.titles,
    )
    answer = self._answer(composed, results, "1", found.shown)
    return schemas.ChatAnswer(
      **dict(answer),
      conversation=name,
      turn=len(before) + 1,
      required=[[*each] for each in need.required],
      denied=[*need.denied],
      refused=[*need.refused],
      chosen=[*need.chosen],
      given_up=[*found.given_up],
    )

  def _known(self, titles: Sequence[str], name: str) -> tuple[str, ...]:
    """Returns titles as the catalogue has them."""
    shown = tuple(shown_titles(titles, name=name))
    for title in shown:
      if title not in self.recommender.index:
        raise InputError(f"{name}: {title!r:.80} is no title of the catalogue.")
    return shown

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
      **_instruction(composed),
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
    async with self._slot():
      _, composed = await self._compose(asked, asked.documents)
    return schemas.Instruction(**_instruction(composed))

  async def find(self, search: str, limit: int) -> list[str]:
    """Returns the first titles of the catalogue that contain a text."""
    wanted = search.casefold().strip()

    def find() -> list[str]:
      titles = zip(self.recommender.titles, self._folded, strict=True)
      found = (title for title, folded in titles if wanted in folded)
      return list(itertools.islice(found, limit))

    return await anyio.to_thread.run_sync(find)

  @functools.cached_property
  def _folded(self) -> list[str]:
    """The catalogue's titles, case-folded."""
    return [title.casefold() for title in self.recommender.titles]

  @contextlib.asynccontextmanager
  async def _slot(self) -> AsyncIterator[None]:
    """Takes one of the places of waiting requests, until the timeout."""
    with self.batcher.slot():
      async with asyncio.timeout(self.timeout):
        yield

  async def _compose(
    self, asked: schemas.UserInput, documents: Sequence[str | schemas.Text]
  ) -> tuple[list[str], Composed]:
    """Returns documents' titles, and an instruction.

    In another thread: texts of the maximum length would block the event loop.
    """

    def compose() -> tuple[list[str], Composed]:
      titles = self._titles(documents)
      arguments = _arguments(asked)
      return titles, self.recommender.compose(**arguments, candidates=titles)

    return await anyio.to_thread.run_sync(compose)

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
  ) -> schemas.RankingAnswer:
    count = self.recommender.vocabulary.count_tokens
    # One more each: the end of sequence.
    tokens = sum(count(text) + 1 for text in (composed.instruction, *titles))
    return schemas.RankingAnswer(
      **_instruction(composed),
      id=uuid.uuid4().hex,
      model=self.recommender.name,
      results=results,
      meta=schemas.Meta(api_version=schemas.ApiVersion(version=version)),
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
      document=schemas.Text(text=texts[number]) if texts else None,
    )
    for each in ranking
  ]


def _instruction(composed: Composed) -> dict[str, Any]:
  return {
    "instruction": composed.instruction,
    "template": composed.form.template.name,
    "aspects": composed.label,
    "operations": [*map(str, composed.operations)],
    "items_dropped": composed.items_dropped,
    "replaced": composed.replaced,
  }


def warm_up(recommender: Recommender) -> None:
  """Compiles all shapes that answers need, for large batches and small."""
  titles = recommender.titles or _made_up_titles(recommender)
  rng = np.random.default_rng(0)
  ranker = recommender.ranker
  for offered, batch in _WARM_UP_BATCHES:
    if typical := list(_typical(recommender, titles, offered, rng)):
      ranker.add_shape(typical, together=batch)
      ranker.score(typical[:batch])
  for had, offered in _LARGEST:
    ranker.score(_requests(recommender, titles, range(had + offered), had))
  if recommender.titles:
    # Instructions of every length, with as many results as are allowed.
    for had in _ENCODER_HISTORIES:
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
