"""Tests for instructrec_jax/evaluation/costs.py and what it counts."""

import time

import jax
import numpy as np
import pytest

from instructrec_jax.evaluation.costs import Metered, amount
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.prompt_rankers import LabelRanker
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.arithmetic import scoring_flops
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.tokenization import Chunk, tokenize
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer

from .conftest import pick

REQUESTS = [RankingRequest(str(n), "", ("a", "b")) for n in range(5)]


class Slow:
  """Sleeps a millisecond a request, and a tenth of a second at first."""

  name = "slow"
  num_parameters = 7

  def __init__(self, *, tells):
    self.calls, self.flops = [], 0.0
    if tells:
      self.compile_seconds = 0.0

  def score(self, requests):
    if not self.calls:
      time.sleep(0.1)
      if hasattr(self, "compile_seconds"):
        self.compile_seconds += 0.1
    self.calls.append(len(requests))
    time.sleep(0.001 * len(requests))
    self.flops += 3.0 * len(requests)
    return [np.zeros(2)] * len(requests)


@pytest.mark.parametrize("tells", [False, True])
def test_neither_compiling_nor_the_warm_up_counts(tells):
  slow = Slow(tells=tells)
  metered = Metered(slow, warm_up=2)
  metered.start()
  metered.score(REQUESTS)
  metered.score(REQUESTS[:3])
  assert slow.calls == ([5, 3] if tells else [2, 5, 3])
  cost = metered.cost(8)
  # A busy machine may sleep longer.
  assert 1 <= (cost["ms"] or 0) < 10
  assert cost == {"ms": cost["ms"], "flops": 3, "parameters": 7}
  metered.start()
  assert metered.cost(1)["ms"] == metered.cost(1)["flops"] == 0


def test_what_a_wrapper_asks_counts_for_what_it_wraps():
  slow = Slow(tells=True)
  metered = Metered(LabelRanker(slow))
  assert metered.cost(1)["parameters"] == 7
  assert Metered(object.__new__(_Unknown)).cost(1)["flops"] is None


class _Unknown:
  name = "unknown"


@pytest.mark.parametrize("candidates", [["a"], ["a b", "a c", "b c a b"]])
def test_the_models_flops_are_those_of_its_products(candidates):
  """XLA counts the same of the plain network, when all it has is products."""
  config = T5Config(
    vocab_size=1280,
    emb_dim=64,
    num_heads=4,
    head_dim=16,
    num_encoder_layers=3,
    num_decoder_layers=2,
    mlp_dim=96,
    dropout_rate=0.0,
    loop_over_examples=False,
  )
  chunk = Chunk(
    tokenize(
      [RankingRequest("r", "x " * 30, tuple(candidates))],
      lambda text: [ord(word) for word in text.split()],
    )
  )
  nodes = int(chunk.own_sizes[0, 3])
  params = jax.eval_shape(lambda: parameters.initial_variables(config))
  lowered = jax.jit(
    lambda params, inputs, outputs: Transformer(config).apply(
      {"params": params}, inputs, outputs, outputs, enable_dropout=False
    )
  ).lower(
    params["params"],
    np.ones((1, chunk.lengths[0]), np.int32),
    np.ones((1, nodes), np.int32),
  )
  counted = lowered.cost_analysis()
  assert counted is not None
  # Norms, masks, softmax and the gate's activation come on top.
  ratio = counted["flops"] / scoring_flops(chunk, config)
  assert 1 < ratio < 1.25


def test_every_ranker_of_a_table_has_its_cost(built, tiny_model, tmp_path):
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=tmp_path / "out",
    scenarios=["sequential", "pointwise", "personalised_i1_tournament"],
    rankers=["random", "popularity", "bm25", "cooccurrence", "model"],
    normalisation="mean",
    limit=20,
  )
  for scenario in results["scenarios"]:
    costs, rows = (
      pick(results, section, scenario=scenario["name"])
      for section in ("costs", "rows")
    )
    assert {c["ranker"] for c in costs} == {r["ranker"] for r in rows}
    assert all(cost["ms"] > 0 for cost in costs)
  (model,) = pick(results, "costs", ranker="model", scenario="sequential")
  (second,) = pick(results, "costs", ranker="model_mean", scenario="sequential")
  assert model | {"ranker": "model_mean"} == second
  loaded = T5Ranker.load(tiny_model)
  assert (
    model["parameters"]
    == loaded.num_parameters
    == sum(leaf.size for leaf in jax.tree.leaves(loaded._params))
  )
  (ten,) = pick(
    results, "costs", ranker="model", scenario="personalised_i1_tournament"
  )
  # Ten groups and a final are eleven prompts.
  assert 8 < ten["flops"] / model["flops"] < 14
  (counts,) = pick(results, "costs", ranker="popularity", scenario="pointwise")
  assert counts["flops"] == 0 < counts["parameters"]
  text = (tmp_path / "out/results.md").read_text()
  assert "|   ms | FLOPs | parameters |" in text or " ms | FLOPs |" in text
  assert f"on {results['device']}, without what is compiled" in text


def test_amounts_are_short():
  numbers = (None, 0, 170.4, 9600, 77e6, 2.85e9, 5.5e12)
  assert [*map(amount, numbers)] == [
    *("-", "0", "170", "9.6k", "77M", "2.85B", "5.5T")
  ]
