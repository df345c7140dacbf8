"""A chat model on a sample of a scenario's requests, and others beside it.

Each of its answers is paid for, so it is asked about some requests. Its row
stands on those alone; to compare it, all rankers are judged on just those.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from instructrec_jax.baselines.chat import ChatRanker, conduct
from instructrec_jax.evaluation import protocol, summaries
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.evaluation.scenario_requests import sample
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.records import RankingRequest

NAME = "chat"


@dataclasses.dataclass(frozen=True)
class ChatSample:
  """What a chat model made of some of a scenario's requests.

  Attributes:
    places: of these requests among all that are ranked, ascending.
    metrics: of each of these requests, by metric.
    conduct: what the answers were worth; see `baselines.chat.conduct`.
    model: that was asked.
    seed: of the sample and of the candidates' orders.
  """

  places: Int[np.ndarray, " requests"]
  metrics: Mapping[str, np.ndarray]
  conduct: Mapping[str, Any]
  model: str
  seed: int


def draw(
  ranker: ChatRanker, source: protocol.RequestSource, *, seed: int
) -> tuple[Int[np.ndarray, " requests"], list[RankingRequest]]:
  """Returns which requests the model is asked: their places, and they."""
  places = sample(source.count, limit=ranker.limit, seed=seed)
  wanted = set(places.tolist())
  return places, [
    request for place, request in enumerate(source.read()) if place in wanted
  ]


def ask(
  ranker: ChatRanker, source: protocol.RequestSource, *, seed: int
) -> ChatSample:
  """Has a sample of a scenario's requests ranked.

  Raises:
    InputError: the server refuses, or a cap is reached.
  """
  places, requests = draw(ranker, source, seed=seed)
  answers = ranker.rank(requests)
  return ChatSample(
    places=places,
    metrics=ranking_metrics(
      [answer.scores for answer in answers],
      [request.target or 0 for request in requests],
    ),
    conduct=conduct(answers),
    model=ranker.name,
    seed=seed,
  )


def summarise(
  scenario: Scenario,
  asked: ChatSample,
  others: summaries.Metrics,
  *,
  requests: int,
  seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Returns the chat model's rows, and what goes with them.

  Args:
    scenario: of the requests.
    asked: the chat model's sample.
    others: metrics of the other rankers on all requests.
    requests: how many there are.
    seed: of the bootstrap.

  Returns:
    Rows as of the other rankers, with their own n; and an entry for "chat" in
    results.json: the sample, what the answers were worth, all rankers' `rows`
    on it, and `comparisons` of the others with the chat model.
  """
  metrics: dict[str, Mapping[str, np.ndarray]] = {
    name: {m: values[asked.places] for m, values in of_ranker.items()}
    for name, of_ranker in others.items()
  }
  metrics[NAME] = asked.metrics
  rows, comparisons = summaries.summarise_ranking(
    scenario, metrics, seed=seed, against=NAME
  )
  return [row for row in rows if row["ranker"] == NAME], {
    "scenario": scenario.name,
    "ranker": NAME,
    "model": asked.model,
    "n": len(asked.places),
    "of": requests,
    "seed": asked.seed,
    **asked.conduct,
    "rows": rows,
    "comparisons": comparisons,
  }
