"""Tests for instructrec_jax/scoring/normalisation.py, through the ranker."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import (
  batching,
  normalisation,
  reranker,
  shapes,
  tokenization,
)
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq.transformer import Transformer
from instructrec_jax.text import features

ALL = tuple(map(str, Normalisation))
# What the reference pads to.
INSTRUCTION, CANDIDATE = 256, 64
# A model with random weights is sure of nothing.
GHOST = 0.005


@pytest.fixture(scope="module")
def make(config, params, vocabulary, title_counts):
  def make(**options):
    known = {"params": params, "title_counts": title_counts}
    options = {**known, "ghost_threshold": GHOST, **options}
    return T5Ranker(config=config, vocabulary=vocabulary, **options)

  return make


@pytest.fixture(scope="module")
def ranker(make):
  return make()


@pytest.fixture(scope="module")
def scores(ranker, requests):
  return ranker.score_all(requests, ALL)


@pytest.fixture(scope="module")
def sizes(ranker, requests):
  """What rounding is relative to: PMI is a difference of larger numbers."""
  null = [dataclasses.replace(r, instruction="") for r in requests]
  return [
    np.abs(one) + np.abs(other)
    for one, other in zip(
      ranker.score(requests), ranker.score(null), strict=True
    )
  ]


def assert_same(found, expected, sizes):
  assert set(found) == set(expected)
  for name in found:
    assert len(found[name]) == len(expected[name])
    for one, other, size in zip(
      found[name], expected[name], sizes, strict=False
    ):
      has_prior = name in ("pmi", "catalogue_prior")
      scale = size if has_prior else np.abs(other)
      np.testing.assert_array_less(np.abs(one - other), 1e-5 * scale + 1e-9)


@pytest.fixture
def toy(monkeypatch):
  """A model: ids below ten are ghosts, the prior of every token is 1/e."""

  @jax.vmap
  def of_shard(batch):
    rows = batch["trie_places"][batch["edge_nodes"]]
    rows //= batch["trie_rows"].shape[-1]
    begin = batch["encoder_rows"][batch["trie_instructions"][rows], 0]
    null = batch["encoder_tokens"][begin] == 1
    targets = batch["edge_targets"]
    given = jnp.where(targets < 10, 0.0, -targets / 8.0)
    return jnp.where(null, -1.0, given)

  monkeypatch.setattr(
    reranker,
    "edge_log_likelihoods",
    lambda params, batch, encoded, *, config: of_shard(batch),
  )


@pytest.fixture(scope="module")
def token_log_p(config, params, vocabulary):
  """By the definition: each candidate alone in a row, whole logits."""

  @jax.jit
  def log_p(source, shifted, target):
    logits: Any = Transformer(config).apply(
      {"params": params}, source, shifted, target, enable_dropout=False
    )
    return jnp.take_along_axis(
      jax.nn.log_softmax(logits), target[..., None], -1
    )[..., 0]

  def of(instruction, candidate):
    source = [[*vocabulary.encode_one(instruction), 1]]
    target = [[*vocabulary.encode_one(candidate), 1]]
    padded = features.pad(target, CANDIDATE)
    values = log_p(
      features.pad(source, INSTRUCTION),
      np.pad(padded[:, :-1], ((0, 0), (1, 0))),
      padded,
    )
    return np.asarray(values, np.float64)[0, : len(target[0])]

  return of


def test_each_equals_a_slow_reference(
  requests, scores, sizes, token_log_p, title_counts
):
  of_one = {
    "sum": lambda v, _, __: v.sum(),
    "mean": lambda v, _, __: v.mean(),
    "byte": lambda v, text, _: v.sum() / len(text.encode()),
    "pmi": lambda v, _, prior: v.sum() - prior.sum(),
    "catalogue_prior": lambda v, text, prior: (
      v.sum() - prior.sum() + np.log(1 + title_counts.get(text, 0))
    ),
    "ghost_free": lambda v, _, __: v[np.exp(v) < GHOST].mean(),
  }
  assert tuple(of_one) == ALL
  expected = {name: [] for name in ALL}
  ghosts = []
  for request in requests[:8]:
    tokens = [token_log_p(request.instruction, c) for c in request.candidates]
    priors = [token_log_p("", c) for c in request.candidates]
    ghosts += [np.exp(values) >= GHOST for values in tokens]
    for name, formula in of_one.items():
      of_request = map(formula, tokens, request.candidates, priors)
      expected[name].append(np.array(list(of_request)))
  assert 0.1 < np.concatenate(ghosts).mean() < 0.9
  assert_same({n: s[:8] for n, s in scores.items()}, expected, sizes)


@pytest.mark.parametrize("name", ALL)
def test_score_returns_one_of_score_all(
  ranker, requests, scores, monkeypatch, name
):
  """The same bits, whatever else is asked for."""
  monkeypatch.setattr(ranker, "normalisation", name)
  for one, other in zip(ranker.score(requests), scores[name], strict=True):
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, other)


def test_scores_do_not_depend_on_neighbours(make, requests, scores, sizes):
  """The priors neither: those of a few requests are scored together."""
  few = make().score_all(requests[18:16:-1], ALL)
  expected = {name: s[18:16:-1] for name, s in scores.items()}
  assert_same(few, expected, sizes[18:16:-1])


def test_scores_do_not_depend_on_the_other_candidates(
  make, requests, scores, sizes
):
  turned = [
    dataclasses.replace(r, candidates=r.candidates[-2:][::-1]) for r in requests
  ]
  assert_same(
    make().score_all(turned, ALL),
    {name: [v[-2:][::-1] for v in s] for name, s in scores.items()},
    [size[-2:][::-1] for size in sizes],
  )


def test_scores_do_not_depend_on_padding_or_rows(
  make, requests, scores, sizes, monkeypatch
):
  monkeypatch.setattr(shapes, "_round_up", lambda size, _: size + 7)
  monkeypatch.setattr(tokenization, "ROW_LENGTHS", (16, 1024))
  assert_same(make().score_all(requests, ALL), scores, sizes)


@pytest.mark.usefixtures("all_devices")
def test_scores_do_not_depend_on_the_mesh(make, requests, scores, sizes):
  split = make(mesh=mesh_lib.make_mesh(data=4, model=2))
  assert_same(split.score_all(requests, ALL), scores, sizes)


def test_the_same_tokens_twice_are_a_tie(ranker, requests):
  """Also where they came in different calls; bytes are those of the text."""
  one = dataclasses.replace(requests[3], candidates=("green tent",))
  ranker.score_all([one], ALL)
  request = dataclasses.replace(
    requests[3], candidates=("green  tent", "rope", "green tent")
  )
  for name, (values,) in ranker.score_all([request], ALL).items():
    assert (values[0] == values[2]) == (name != "byte")
    assert values[0] != values[1]


@pytest.fixture
def null_batches(monkeypatch):
  """The candidates of each batch under the null instruction."""
  batches = []
  to_batches = batching.to_batches

  def spy(chunk, bins, **options):
    members = [chunk.requests[number] for b in bins for number in b]
    null = [m.candidates for m in members if m.instruction.tolist() == [1]]
    if null:
      batches.append((null, options))
    return to_batches(chunk, bins, **options)

  monkeypatch.setattr(batching, "to_batches", spy)
  return batches


def test_a_candidates_prior_is_computed_once(make, toy, requests, null_batches):
  ranker = make(normalisation="pmi")
  ranker.score(requests[:20])
  ranker.score(requests)
  # The same tokens.
  ranker.score(
    [
      dataclasses.replace(r, candidates=tuple(f"{c} " for c in r.candidates))
      for r in requests
    ]
  )
  scored = [ids for null, _ in null_batches for row in null for ids in row]
  tokenized = tokenization.tokenize(requests, ranker._vocabulary.encode_one)
  distinct = {ids for piece in tokenized for ids in piece.candidates}
  assert len(scored) == len(distinct)
  assert set(scored) == distinct


def test_a_plan_computes_the_priors_that_scoring_would(
  make, toy, requests, null_batches
):
  """Or a run that is taken up again would end with other bits."""
  for straight in (True, False):
    ranker = make(normalisation="pmi")
    for chunk in (requests[:20], requests[20:]):
      (ranker.score if straight else ranker.plan)(chunk)
  half = len(null_batches) // 2
  assert half >= 2
  assert null_batches[:half] == null_batches[half:]


def test_other_parameters_have_other_priors(ranker, params, requests):
  request = dataclasses.replace(requests[3], candidates=("pump rope pump",))
  ranker.set_params(jax.tree.map(lambda array: array[::-1], params))
  ranker.score_all([request], ALL)
  ranker.set_params(params)
  scores = ranker.score_all([request], ALL)
  null = dataclasses.replace(request, instruction="")
  expected = scores["sum"][0] - ranker.score([null])[0]
  np.testing.assert_allclose(scores["pmi"][0], expected, rtol=1e-4)


def test_pmi_is_zero_where_the_instruction_is_not_read(make, params, requests):
  def blind(path, array):
    path = jax.tree_util.keystr(path)
    unread = "encoder_decoder_attention" in path and "'out'" in path
    return 0 * array if unread else array

  ranker = make(params=jax.tree_util.tree_map_with_path(blind, params))
  found = ranker.score_all(requests, ("pmi", "sum"))
  for pmi, sums in zip(found["pmi"], found["sum"], strict=True):
    np.testing.assert_array_less(np.abs(pmi), 1e-5 * np.abs(sums))


def test_a_toy_by_hand(make, toy):
  ranker = make(ghost_threshold=normalisation.GHOST_THRESHOLD)
  texts = ("tent", "kayak rope", "tent é")
  request = RankingRequest("a", "pick", texts)
  found = ranker.score_all([request], ALL)
  for place, text in enumerate(texts):
    ids = [*ranker._vocabulary.encode_one(text), 1]
    kept = [i / 8 for i in ids if i >= 10]
    assert 0 < len(kept) < len(ids)
    expected = {
      "sum": -sum(kept),
      "mean": -sum(kept) / len(ids),
      "byte": -sum(kept) / len(text.encode()),
      "pmi": -sum(kept) + len(ids),
      "ghost_free": -sum(kept) / len(kept),
    }
    for name, value in expected.items():
      assert found[name][0][place] == np.float32(value), name


def test_ghosts_alone_score_zero(make, monkeypatch):
  def certain(params, batch, encoded, *, config):
    return jnp.full(batch["edge_targets"].shape, -0.02)

  monkeypatch.setattr(reranker, "edge_log_likelihoods", certain)
  request = RankingRequest("a", "pick", ("tent", "kayak"))
  for threshold, expected in ((0.99, -0.02), (0.98, 0)):
    ranker = make(normalisation="ghost_free", ghost_threshold=threshold)
    np.testing.assert_allclose(ranker.score([request])[0], expected, rtol=1e-6)


def test_few_shapes_are_compiled(make, toy, monkeypatch):
  """The null instruction takes its shapes from the same few."""
  monkeypatch.setattr(shapes, "TOKENS_PER_SHAPE", 0)
  rng = np.random.default_rng(0)
  ranker = make(batch_tokens=64)
  for length in (5, 30, 90, 250, 60, 400):
    ranker.score_all(
      [
        RankingRequest(
          request_id=str(number),
          instruction="tent " * int(rng.integers(1, length)),
          candidates=tuple("ab" * int(n) for n in rng.integers(1, 9, 4)),
        )
        for number in range(3)
      ],
      ALL,
    )
  assert ranker.compiled_shapes <= shapes.MAX_SHAPES
  assert ranker._score_batch._cache_size() == ranker.compiled_shapes


def test_tables_name_all_but_the_papers(make):
  names = [make(normalisation=name).name for name in ALL]
  assert names[0] == make().name == "model"
  assert names[1:] == [f"model ({name})" for name in ALL[1:]]


def test_no_requests_no_scores(ranker):
  assert ranker.score_all([], ALL) == {name: [] for name in ALL}


def test_bad_options(make, ranker, requests):
  with pytest.raises(InputError, match="normalisation 'max': name one of sum"):
    make(normalisation="max")
  with pytest.raises(InputError, match="no normalisation 'max'"):
    ranker.score_all(requests, ["sum", "max"])
  for threshold in (0, 1.01, float("nan")):
    with pytest.raises(InputError, match="ghost_threshold is"):
      make(ghost_threshold=threshold)


def test_bytes_are_those_of_utf_8():
  request = RankingRequest("a", "pick", ("tent", "é", ""))
  assert normalisation.byte_lengths(request) == [4, 2, 1]


def test_the_catalogue_prior_is_bayes_rule(scores, requests, title_counts):
  for request, prior, pmi in zip(
    requests, scores["catalogue_prior"], scores["pmi"], strict=True
  ):
    counts = np.array([title_counts.get(t, 0) for t in request.candidates])
    np.testing.assert_allclose(prior, pmi + np.log(counts + 1), atol=1e-5)


def test_without_counts_there_is_no_catalogue_prior(make, requests):
  bare = make(title_counts=None)
  assert set(bare.normalisations) == set(ALL) - {"catalogue_prior"}
  with pytest.raises(InputError, match="title_counts.json"):
    bare.score_all(requests, ["sum", "catalogue_prior"])
  with pytest.raises(InputError, match="pack the dataset again"):
    make(title_counts={}, normalisation="catalogue_prior")
