"""A chat model on a sample of a scenario's requests, and others beside it.

Each of its answers is paid for, so it ranks a sample. Its row has the sample's
n; to compare it, the metrics of all rankers are taken on that sample too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from instructrec_jax.baselines.chat import ChatRanker, conduct
from instructrec_jax.evaluation import summaries
from instructrec_jax.evaluation.metrics import metrics_of_ranks
from instructrec_jax.evaluation.requests import RequestSource, sample
from instructrec_jax.evaluation.scores import ScoreLog
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.records import RankingRequest

NAME = "chat"


@dataclasses.dataclass(frozen=True)
class ChatSample:
  """A chat model's ranking of a sample of a scenario's requests.

  Attributes:
    rows: of these requests among all that are ranked, ascending.
    conduct: how well-formed the answers were; see `baselines.chat.conduct`.
    seed: of the sample and of the candidates' orders.
  """

  rows: Int[np.ndarray, " requests"]
  requests: list[RankingRequest]
  scores: list[np.ndarray]
  conduct: Mapping[str, Any]
  model: str
  seed: int


def draw(
  ranker: ChatRanker, source: RequestSource, *, seed: int
) -> tuple[Int[np.ndarray, " requests"], list[RankingRequest]]:
  """Returns the sample: its rows among all requests, and the requests."""
  rows = sample(source.count, limit=ranker.limit, seed=seed)
  wanted = set(rows.tolist())
  return rows, [r for row, r in enumerate(source.read()) if row in wanted]


def ask(ranker: ChatRanker, source: RequestSource, *, seed: int) -> ChatSample:
  """Has a sample of a scenario's requests ranked.

  Raises:
    InputError: the server refuses, or a cap is reached.
  """
  rows, requests = draw(ranker, source, seed=seed)
  answers = ranker.rank(requests)
  return ChatSample(
    rows=rows,
    requests=requests,
    scores=[answer.scores for answer in answers],
    conduct=conduct(answers),
    model=ranker.name,
    seed=seed,
  )


def summarise(
  scenario: Scenario,
  chat: ChatSample,
  others: summaries.Metrics,
  *,
  requests: int,
  log: ScoreLog,
  seed: int,
  resamples: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Returns the chat model's rows, and its entry for "chat" in results.json.

  `others` are metrics of the other rankers on all `requests`.

  Returns:
    Rows as of the other rankers, with their own n; and the sample, how
    well-formed the answers were, all rankers' `rows` on it, and `comparisons`
    of the others with the chat model.
  """
  metrics: dict[str, Mapping[str, np.ndarray]] = {
    name: {m: values[chat.rows] for m, values in of_ranker.items()}
    for name, of_ranker in others.items()
  }
  ranks = log.add_ranks(NAME, chat.requests, chat.scores)
  metrics[NAME] = metrics_of_ranks(*ranks)
  rows, comparisons = summaries.summarise_ranking(
    scenario, metrics, seed=seed, resamples=resamples, against=NAME
  )
  return [row for row in rows if row["ranker"] == NAME], {
    "scenario": scenario.name,
    "ranker": NAME,
    "model": chat.model,
    "n": len(chat.rows),
    "of": requests,
    "seed": chat.seed,
    **chat.conduct,
    "rows": rows,
    "comparisons": comparisons,
  }
