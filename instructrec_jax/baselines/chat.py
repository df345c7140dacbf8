"""A chat model as a ranker, zero-shot: GPT-3.5's role in the paper's tables.

It reads the instruction that the model is asked with, and the candidates as a
numbered list in an order of its own. Each request is sent once, whatever the
answer is worth, and every answer is kept in the dataset folder.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrec_jax.baselines.chat import (
  RankedAnswer,
  normalised,
  read_ranking,
)
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.requests import MOST_SHOWN
from instructrec_jax.records import RankingRequest
from instructrec_jax.storage import sha256_of
from instructrec_jax.teacher.annotate import Send
from instructrec_jax.teacher.budget import Estimate, Prices, estimate
from instructrec_jax.teacher.chat import ChatRequest, Status
from instructrec_jax.teacher.store import Store

FILE = "chat_rankings.sqlite"
# Of the wording: another one makes other requests.
VERSION = "rank-1"

_SYSTEM = """\
You rank the products of an online shop for one of its customers. You are \
given what is known of the customer or of the wish, and a numbered list of \
candidates. Whatever you are told about choosing one, rank all of them: write \
down the title of every candidate, the one that answers best first, one title \
a line, each exactly as it is listed, and nothing else."""
_BYTES_A_TOKEN = 3
_TOKENS_A_LINE = 8


@dataclasses.dataclass(frozen=True)
class ChatOptions:
  """Which model to ask, how much, and what it may cost.

  Attributes:
    model: as the server calls it.
    send: a transport with its caps, which hold for all scenarios together.
      It sends what the store does not hold, and sends nothing again because
      of what an answer says.
    limit: a random sample of so many requests of each scenario; the paper
      asks 500.
    prices: for estimates.
  """

  model: str
  send: Send
  limit: int = 500
  prices: Prices | None = None

  def __post_init__(self):
    """Raises InputError if nothing may be asked."""
    if self.limit < 1:
      raise InputError(f"--chat-limit is {self.limit}: ask at least 1.")


class ChatRanker:
  """Asks a chat model for rankings.

  Attributes:
    name: the model's.
    limit: of requests in each scenario.
  """

  def __init__(self, options: ChatOptions, folder: DatasetFolder, *, seed: int):
    """Takes whom to ask, and the folder whose file keeps the answers.

    Args:
      options: of the chat model.
      folder: of the requests.
      seed: of the candidates' orders.
    """
    self.name, self.limit = options.model, options.limit
    self._options = options
    self._folder = folder
    self._seed = seed

  def estimate(self, requests: Sequence[RankingRequest]) -> Estimate:
    """Adds up what `rank` would send; sends nothing."""
    questions = [self.question(request) for request in requests]
    with self._store() as store:
      known = store.answered_keys()
    return estimate(
      [q for q in questions if q.key not in known], self._options.prices
    )

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns each candidate's place in the answer, negative."""
    return [answer.scores for answer in self.rank(requests)]

  def rank(self, requests: Sequence[RankingRequest]) -> list[RankedAnswer]:
    """Has requests answered that the store does not hold, and reads all.

    Raises:
      InputError: the server refuses, or a cap is reached; what was answered
        until then is kept.
    """
    questions = [self.question(request) for request in requests]
    with self._store() as store:
      known = store.answered_keys()
      stopped = ""
      if any(question.key not in known for question in questions):
        stopped = self._options.send(questions, store).stopped
      found = store.found(question.key for question in questions)
    missing = sum(question.key not in found for question in questions)
    if missing:
      raise InputError(
        f"{stopped}: {missing:,} of {len(questions):,} requests to "
        f"{self.name} have no answer; what was answered is kept, so raise the "
        "cap and run the same again."
      )
    answers = []
    for request, question in zip(requests, questions, strict=True):
      status, text = found[question.key]
      answers.append(read_ranking(text, request.candidates, status=status))
    return answers

  def question(self, request: RankingRequest) -> ChatRequest:
    """Words a request: what it says, then its candidates in another order."""
    titles = {normalised(title): title for title in request.candidates}
    order = self._rng(request).permutation(len(titles))
    listed = list(titles.values())
    lines = [f"{n}. {listed[i]}" for n, i in enumerate(order, start=1)]
    size = sum(len(title.encode()) for title in listed)
    return ChatRequest(
      model=self._options.model,
      system=_SYSTEM,
      user="\n".join([_without_list(request), "", "Candidates:", *lines]),
      schema_name="ranking",
      schema={},
      parameters={
        "temperature": 0.0,
        # Room for every title, and for some words that nobody asked for.
        "max_completion_tokens": 64
        + size // _BYTES_A_TOKEN
        + _TOKENS_A_LINE * len(listed),
      },
      prompt_version=VERSION,
    )

  def _rng(self, request: RankingRequest) -> np.random.Generator:
    """Of the request's id, not of its place: a resumed run asks the same."""
    digest = hashlib.sha256(request.request_id.encode()).digest()
    return np.random.default_rng(
      [self._seed, int.from_bytes(digest[:8], "little")]
    )

  def _store(self) -> Store:
    return Store(
      self._folder.path / FILE,
      dataset=sha256_of(self._folder.path / "manifest.json"),
    )


def conduct(answers: Sequence[RankedAnswer]) -> dict[str, Any]:
  """Counts what answers were worth.

  Returns:
    `lines` of all answers; `illegal`, the share of them that names no
    candidate; `duplicates`, lines that name one again; how many answers are
    `incomplete`; and why: `refused`, `truncated` by the limit on tokens,
    `failed` or empty, and `short` where nothing but the model is to blame.
  """
  of_status = collections.Counter(answer.status for answer in answers)
  lines = sum(answer.lines for answer in answers)
  return {
    "lines": lines,
    "illegal": sum(answer.illegal for answer in answers) / max(lines, 1),
    "duplicates": sum(answer.duplicates for answer in answers),
    "incomplete": sum(not answer.complete for answer in answers),
    "refused": of_status[Status.REFUSED],
    "truncated": of_status[Status.TRUNCATED],
    # Empty ones count as malformed.
    "failed": of_status[Status.FAILED] + of_status[Status.MALFORMED],
    "short": sum(
      not answer.complete
      for answer in answers
      if answer.status is Status.ANSWERED
    ),
  }


def _without_list(request: RankingRequest) -> str:
  """Returns the instruction; candidates that it lists are listed elsewhere."""
  for count in (len(request.candidates), MOST_SHOWN):
    listed = SEPARATOR.join(request.candidates[:count])
    if request.instruction.count(listed) == 1:
      return request.instruction.replace(listed, "(the list below)")
  return request.instruction
