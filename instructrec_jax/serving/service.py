"""A model that many ask at a time: what the routes of `app` answer with."""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio.to_thread

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.compose import Composed, shown_titles
from instructrec_jax.instructions.recommend import Ranked
from instructrec_jax.serving import schemas
from instructrec_jax.serving.batcher import Batcher
from instructrec_jax.serving.recommender import Recommender

# In tokens. A longer title would be scored in a shape that is slow, and more of
# them would keep others waiting.
LONGEST_TITLE = 95
MOST_TOKENS = 1 << 15


class NoCatalogue(Exception):
  """There is nothing to recommend from."""


@dataclasses.dataclass(frozen=True)
class Service:
  """A model that many ask at a time."""

  recommender: Recommender
  batcher: Batcher
  seconds: float

  @functools.cached_property
  def numbers(self) -> dict[str, int]:
    """Each title's place in the catalogue."""
    return {t: number for number, t in enumerate(self.recommender.titles)}

  @functools.cached_property
  def folded(self) -> list[str]:
    """The titles as a search compares them."""
    return [title.casefold() for title in self.recommender.titles]

  def titles(self, documents: Sequence[str | schemas.Text]) -> list[str]:
    """Returns documents' titles.

    Raises:
      InputError: one is empty or too long, they are too long together, or
        instructions show two of them alike.
    """
    titles = _distinct(documents)
    counts = list(map(self.recommender.vocabulary.count_tokens, titles))
    for number, count in enumerate(counts):
      if count > LONGEST_TITLE:
        raise InputError(
          f"documents[{number}] has {count} tokens: titles of at most "
          f"{LONGEST_TITLE} are ranked."
        )
    if sum(counts) > MOST_TOKENS:
      raise InputError(
        f"the documents have {sum(counts):,} tokens: at most {MOST_TOKENS:,} "
        "are ranked at a time."
      )
    return titles

  @contextlib.asynccontextmanager
  async def answering(self) -> AsyncIterator[None]:
    """Holds a place, and gives up in time."""
    with self.batcher.place():
      async with asyncio.timeout(self.seconds):
        yield

  async def compose(
    self, asked: schemas.Said, documents: Sequence[str | schemas.Text]
  ) -> tuple[list[str], Composed]:
    """Returns documents' titles, and an instruction.

    Not in the event loop: texts as long as they may be take a while.

    Raises:
      InputError: of `titles`, or no instruction can be made of what is said.
    """

    def compose() -> tuple[list[str], Composed]:
      titles = self.titles(documents)
      return titles, self.recommender.compose(**_said(asked), candidates=titles)

    return await anyio.to_thread.run_sync(compose)

  async def rerank(
    self, asked: schemas.RerankRequest, version: str
  ) -> schemas.RankingAnswer:
    """Ranks documents."""
    async with self.answering():
      documents, composed = await self.compose(asked, asked.documents)
      request = self.recommender.request(composed, composed.candidates)
      scores = await self.batcher.score(request)
    ranking = self.recommender.ranking(composed.candidates, scores)
    places = {title: n for n, title in enumerate(composed.candidates)}
    results = _results(
      ranking[: asked.top_n],
      places,
      texts=documents if asked.return_documents else (),
    )
    return self._answer(composed, results, version, composed.candidates)

  async def recommend(
    self, asked: schemas.RecommendRequest
  ) -> schemas.RankingAnswer:
    """Ranks the catalogue."""
    if not self.recommender.titles:
      raise NoCatalogue
    async with self.answering():
      call = functools.partial(
        self.recommender.recommend, **_said(asked), k=asked.top_n
      )
      found = await self.batcher.call(call)
    results = _results(
      found.ranking, self.numbers, texts=self.recommender.titles
    )
    shown = [each.title for each in found.ranking]
    return self._answer(found.composed, results, "1", shown)

  async def explain(self, asked: schemas.ExplainRequest) -> schemas.Explanation:
    """Ranks documents, and says which words weigh most."""
    async with self.answering():
      documents = await anyio.to_thread.run_sync(self.titles, asked.documents)
      call = functools.partial(
        self.recommender.explain,
        **_said(asked),
        candidates=documents,
        words=asked.words,
      )
      found = await self.batcher.call(call)
    composed = found.recommendation.composed
    places = {title: n for n, title in enumerate(composed.candidates)}
    return schemas.Explanation(
      **_instruction(composed),
      results=_results(found.recommendation.ranking, places, texts=documents),
      weights=[
        schemas.WordWeight(**dataclasses.asdict(each)) for each in found.weights
      ],
    )

  async def instruction(
    self, asked: schemas.InstructionRequest
  ) -> schemas.Instruction:
    """Composes an instruction, and ranks nothing."""
    async with self.answering():
      _, composed = await self.compose(asked, asked.documents)
    return schemas.Instruction(**_instruction(composed))

  async def find(self, search: str, limit: int) -> list[str]:
    """Returns the first titles of the catalogue that contain a text."""
    wanted = search.casefold().strip()

    def find() -> list[str]:
      titles = zip(self.recommender.titles, self.folded, strict=True)
      found = (title for title, folded in titles if wanted in folded)
      return list(itertools.islice(found, limit))

    return await anyio.to_thread.run_sync(find)

  def _answer(
    self,
    composed: Composed,
    results: list[schemas.Result],
    version: str,
    titles: Any,
  ) -> schemas.RankingAnswer:
    count = self.recommender.vocabulary.count_tokens
    # Each with its end of sequence.
    tokens = sum(count(text) + 1 for text in (composed.instruction, *titles))
    return schemas.RankingAnswer(
      **_instruction(composed),
      id=uuid.uuid4().hex,
      model=self.recommender.name,
      results=results,
      meta=schemas.Meta(api_version=schemas.ApiVersion(version=version)),
      usage=schemas.Usage(total_tokens=tokens, prompt_tokens=tokens),
    )


def _said(asked: schemas.Said) -> dict[str, Any]:
  """Returns what a user says, as `Recommender`'s methods take it."""
  return {
    "instruction": asked.query,
    "history": asked.history,
    "preference": asked.preference,
    "context": asked.context,
    "kind": asked.kind,
    "template": asked.template,
  }


def _distinct(documents: Sequence[str | schemas.Text]) -> list[str]:
  titles = [d if isinstance(d, str) else d.text for d in documents]
  first: dict[str, int] = {}
  for number, shown in enumerate(shown_titles(titles, name="documents")):
    before = first.setdefault(shown, number)
    if before != number:
      raise InputError(
        f"documents[{number}] is the same title as documents[{before}], "
        f"{shown!r:.80}: give each once."
      )
  return titles


def _results(
  ranking: tuple[Ranked, ...], places: dict[str, int], *, texts: Any
) -> list[schemas.Result]:
  return [
    schemas.Result(
      index=(index := places[each.title]),
      relevance_score=each.probability,
      log_likelihood=each.log_likelihood,
      document=schemas.Text(text=texts[index]) if texts else None,
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
