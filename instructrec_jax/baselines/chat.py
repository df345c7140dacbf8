"""A chat model as a zero-shot ranker, as GPT-3.5 in the paper's tables.

Its prompt is the instruction, then the candidates as a numbered list in a
random order. Each request is sent once, whatever the answer says, and every
answer is stored in the dataset folder.

Answers are parsed strictly: a line counts if it is a candidate's title, up to
case, white space and a leading number or bullet. Similar titles are not
matched: they are as often two products as one.
"""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from instructrec_jax import locks
from instructrec_jax.data.folder import CHAT_RANKINGS_FILE, DatasetFolder
from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.requests import MOST_SHOWN
from instructrec_jax.records import RankingRequest
from instructrec_jax.teacher.annotate import Send
from instructrec_jax.teacher.annotations import open_store
from instructrec_jax.teacher.budget import Estimate, Prices, estimate
from instructrec_jax.teacher.chat import ChatRequest, Status

# Of the wording: another one makes other requests.
VERSION = "rank-1"

_SYSTEM = """\
You rank the products of an online shop for one of its customers. You are \
given what is known of the customer or of the wish, and a numbered list of \
candidates. Whatever you are told about choosing one, rank all of them: write \
down the title of every candidate, the one that answers best first, one title \
a line, each exactly as it is listed, and nothing else."""
_BYTES_PER_TOKEN = 3
_TOKENS_PER_LINE = 8
# "1. ", "2) ", "[3] ", "- " and the like.
_NUMBERING = re.compile(r"(?:[-*•]|[(\[]?\d{1,3}[.):\]]+)\s+")


@dataclasses.dataclass(frozen=True)
class ChatOptions:
  """Which model to ask, how much, and what it may cost.

  Attributes:
    model: as the server calls it.
    send: a transport with its caps, which hold for all scenarios together.
      It sends what the store has no answer to, and sends nothing again because
      of what an answer says.
    limit: size of the random sample of each scenario's requests; the paper
      asks 500.
    prices: for estimates.
  """

  model: str
  send: Send
  limit: int = 500
  prices: Prices | None = None

  def __post_init__(self):
    """Raises InputError if nothing may be asked."""
    check_counts(**{"--chat-limit": self.limit})


@dataclasses.dataclass(frozen=True)
class RankedAnswer:
  """A parsed answer.

  Attributes:
    scores: of the candidates; those that are not named tie below the others.
    status: outcome of the request.
    lines: how many the answer has.
    illegal: lines that name no candidate.
    duplicates: lines that name a candidate again.
    complete: whether all candidates are named.
  """

  scores: Float[np.ndarray, " candidates"]
  status: Status
  lines: int
  illegal: int
  duplicates: int
  complete: bool


class ChatRanker:
  """Ranks candidates by a chat model's answers.

  Attributes:
    name: the model's.
    limit: of requests in each scenario.
  """

  def __init__(self, options: ChatOptions, folder: DatasetFolder, *, seed: int):
    """Prepares; sends nothing.

    Args:
      options: of the chat model.
      folder: of the requests; it also stores the answers.
      seed: of the candidates' orders.
    """
    self.name, self.limit = options.model, options.limit
    self._options = options
    self._folder = folder
    self._seed = seed

  def estimate(self, requests: Sequence[RankingRequest]) -> Estimate:
    """Adds up what `rank` would send; sends nothing."""
    questions = [self.question(request) for request in requests]
    with open_store(self._folder, CHAT_RANKINGS_FILE, to_read=True) as store:
      known = store.answered_keys()
    return estimate(
      [q for q in questions if q.key not in known], self._options.prices
    )

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns each candidate's negated rank in the answer."""
    return [answer.scores for answer in self.rank(requests)]

  def rank(self, requests: Sequence[RankingRequest]) -> list[RankedAnswer]:
    """Sends the requests that the store has no answer to, and parses all.

    Raises:
      InputError: the server refuses, or a cap is reached; what was answered
        until then is stored.
    """
    questions = [self.question(request) for request in requests]
    with (
      locks.writing(self._folder.path / CHAT_RANKINGS_FILE),
      open_store(self._folder, CHAT_RANKINGS_FILE) as store,
    ):
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
    """Makes the prompt: the instruction, then shuffled candidates."""
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
        # Enough for every title, and for some words that nobody asked for.
        "max_completion_tokens": 64
        + size // _BYTES_PER_TOKEN
        + _TOKENS_PER_LINE * len(listed),
      },
      prompt_version=VERSION,
    )

  def _rng(self, request: RankingRequest) -> np.random.Generator:
    """Seeds by the request's id, so that a resumed run asks the same."""
    digest = hashlib.sha256(request.request_id.encode()).digest()
    return np.random.default_rng(
      [self._seed, int.from_bytes(digest[:8], "little")]
    )


def conduct(answers: Sequence[RankedAnswer]) -> dict[str, Any]:
  """Counts how well answers follow the requested format.

  Returns:
    `lines` of all answers; `illegal`, the share of them that names no
    candidate; `duplicates`, lines that name one again; how many answers are
    `incomplete`; and why: `refused`, `truncated` by the limit on tokens,
    `failed` or empty, and `short` for complete answers without all candidates.
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


def read_ranking(
  text: str, titles: Sequence[str], *, status: Status
) -> RankedAnswer:
  """Parses an answer; candidates of the same title get the same score.

  Args:
    text: one title a line, the best first.
    titles: of the candidates.
    status: a refusal names nothing, whatever it says; of a truncated answer
      the last line is left out.
  """
  lines = [line for line in map(normalised, text.splitlines()) if line]
  if status is Status.TRUNCATED:
    lines = lines[:-1]
  elif status is not Status.ANSWERED:
    lines = []
  known = [normalised(title) for title in titles]
  places: dict[str, int] = {}
  illegal = duplicates = 0
  for line in lines:
    # Unchanged first: titles may begin with a number.
    named = line if line in known else _NUMBERING.sub("", line, count=1)
    if named not in known:
      illegal += 1
    elif named in places:
      duplicates += 1
    else:
      places[named] = len(places)
  scores = [-float(places.get(title, len(titles))) for title in known]
  return RankedAnswer(
    scores=np.array(scores),
    status=status,
    lines=len(lines),
    illegal=illegal,
    duplicates=duplicates,
    complete=len(places) == len(set(known)),
  )


def normalised(title: str) -> str:
  """Returns a title without differences of case and white space."""
  return " ".join(title.split()).casefold()


def _without_list(request: RankingRequest) -> str:
  """Returns the instruction without the candidates that it lists."""
  for count in (len(request.candidates), MOST_SHOWN):
    listed = SEPARATOR.join(request.candidates[:count])
    if request.instruction.count(listed) == 1:
      return request.instruction.replace(listed, "(the list below)")
  return request.instruction
