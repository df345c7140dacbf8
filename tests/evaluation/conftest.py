"""A small shop with all that scenarios show, and models to rank it."""

import sys
import types

import numpy as np
import orbax.checkpoint as ocp
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.teacher.annotate import annotate_offline
from instructrec_jax.text.vocabulary import Vocabulary


@pytest.fixture(scope="module", autouse=True)
def _short_fits(short_fits):
  """What a table's baselines reach is no matter here."""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
  """Annotated and built; tests that write copy it."""
  path = tmp_path_factory.mktemp("built") / "shop"
  prepare(format="synthetic", users=300, out=path)
  annotate_offline(path)
  build(path, train_vocabulary_size=600, options=Options(sequences=True))
  return path


@pytest.fixture(scope="session")
def tiny_model(built, tmp_path_factory):
  """A model folder with random weights."""
  path = tmp_path_factory.mktemp("tiny") / "model"
  path.mkdir()
  vocabulary = (built / "vocabulary.model").read_bytes()
  (path / "vocabulary.model").write_bytes(vocabulary)
  config = T5Config(
    vocab_size=Vocabulary.load(path / "vocabulary.model").model_vocab_size,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=16,
  )
  model_folder.save_config(path, config)
  ocp.PyTreeCheckpointer().save(
    path / "checkpoints" / "1" / "params",
    parameters.initial_variables(config)["params"],
  )
  return path


@pytest.fixture
def use_model(monkeypatch, tmp_path):
  """Returns a function that makes `--model` load this, and the folder."""

  def use(model):
    loading = types.SimpleNamespace(load=model.load)
    monkeypatch.setitem(
      sys.modules,
      "instructrec_jax.scoring.reranker",
      types.SimpleNamespace(T5Ranker=loading),
    )
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    return folder

  return use


class FakeModel:
  """Knows the answer where `knows` says so of a request, else errs.

  Attributes:
    loads: how often weights were read.
    seen: all requests that it scored.
    asked: the normalisations of each call.
  """

  name = "model"

  def __init__(self, knows=lambda request, normalisation: True):
    """Takes what it knows."""
    self._knows = knows
    self.loads, self.seen, self.asked = 0, [], []

  def load(self, model_dir, *, mesh):
    """Returns itself."""
    self.loads += 1
    return self

  normalisations = ("sum", "mean", "byte", "pmi", "ghost_free")

  def score(self, requests):
    """Returns scores by the sum."""
    return self.score_all(requests, ["sum"])["sum"]

  def score_all(self, requests, normalisations):
    """Returns 1 for the answer that it gives and 0 for all others."""
    names = [str(Normalisation(name)) for name in normalisations]
    self.seen += requests
    self.asked.append(tuple(names))
    return {name: [self._score(r, name) for r in requests] for name in names}

  def _score(self, request, name):
    count, target = len(request.candidates), request.target
    # In a tournament's heat the target may be missing.
    if target is None:
      return np.zeros(count)
    right = self._knows(request, name)
    return np.eye(count)[target if right else (target + 1) % count]


def pick(results, section, **wanted):
  """Returns the entries of a section with these values."""
  return [
    entry
    for entry in results[section]
    if all(entry[key] == value for key, value in wanted.items())
  ]


def value(results, ranker, metric, scenario="sequential"):
  """Returns a row's value, which its interval must hold."""
  (row,) = pick(
    results, "rows", ranker=ranker, metric=metric, scenario=scenario
  )
  assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
  return row["value"]


def small_results():
  """Returns results.json of one scenario, two rankers and two metrics."""
  metrics = ("hr@1", "ndcg@3")
  group = {"group": 0, "requests": 9, "value": 0.25, "low": 0.2, "high": 0.3}
  return {
    "dataset": "data/shop",
    "dataset_sha256": "cd" * 32,
    "model": None,
    "limit": None,
    "split": "test",
    "resamples": 1000,
    "seed": 0,
    "device": "2 CPU cores",
    "labels": {"popularity": "popularity", "model": "model"},
    "scenarios": [
      {
        "name": "sequential",
        "aspects": "<P1,I0,T3>",
        "candidates": "users",
        "candidate_count": 10,
        "tournament": False,
        "metrics": metrics,
        "table": "Table 6",
        "requests": 1200,
        "template": "A07_p1_i0_t3",
        "permutations": 1,
        "matcher": None,
        "candidates_sha256": "ab" * 32,
        "sees": {"popularity": ["purchases"], "model": ["history", "titles"]},
        "sees_beside": {"popularity": [], "model": []},
        "tied_times": 0.4375,
        "tied_order": "by a hash",
        "same_query": None,
        "runs": {},
      }
    ],
    "rows": [
      {
        "scenario": "sequential",
        "ranker": ranker,
        "metric": metric,
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "n": 1200,
      }
      for ranker, value in (("popularity", 0.4), ("model", 0.6254))
      for metric in metrics
    ],
    "costs": [
      {
        "scenario": "sequential",
        "ranker": ranker,
        "ms": ms,
        "flops": flops,
        "parameters": parameters,
      }
      for ranker, ms, flops, parameters in (
        ("popularity", 0.0123, 0.0, 900),
        ("model", 1234.5, 3.4567e9, None),
      )
    ],
    "end_to_end": [],
    "comparisons": [
      {
        "scenario": "sequential",
        "ranker": "model",
        "against": "popularity",
        "metric": "hr@1",
        "value": 0.2254,
        "low": 0.2,
        "high": 0.25,
        "p": 2 / 1001,
        "p_holm": 2 / 1001,
        "n": 1200,
      }
    ],
    "positions": [
      {
        "scenario": "sequential",
        "ranker": ranker,
        "spread": spread,
        "chi_square": 9.5,
        "degrees": 9,
        "p": 0.3926,
        "by_position": [group],
      }
      for ranker, spread in (("popularity", 0.02), ("model", 0.0312))
    ],
    "popularity": [
      {
        "scenario": "sequential",
        "ranker": ranker,
        "popularity@1": 0.75,
        "popularity_candidates": 0.5,
        "coverage@1": 0.125,
        "hr@1_by": {"head": group, "tail": group},
      }
      for ranker in ("popularity", "model")
    ],
    "temperatures": [],
    "templates": [],
    "normalisations": [],
    "chat": [],
    "probe": [],
    "impossible": [],
  }
