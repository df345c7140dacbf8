"""Tests for instructrec_jax/scoring/reranker.py: what a score depends on."""

import concurrent.futures
import dataclasses
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import (
  export_folder,
  hugging_face,
  model_folder,
)
from instructrec_jax.checkpoints.weights import leaves_of
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import shapes, tokenization
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import int8
from instructrec_jax.seq2seq.transformer import Transformer
from instructrec_jax.text import features

pytestmark = pytest.mark.usefixtures("all_devices")

WORDS = "tent stove lantern kayak paddle rope helmet saddle pump green".split()


@pytest.fixture(scope="module")
def ranker(config, params, vocabulary):
  return T5Ranker(
    config=config, params=params, vocabulary=vocabulary, batch_tokens=2048
  )


@pytest.fixture(scope="module")
def scores(ranker, requests):
  return ranker.score(requests)


def assert_same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("said", ["", "green helmet saddle", "tent"])
def test_scores_equal_a_softmax_for_each_candidate(
  ranker, requests, config, params, vocabulary, said
):
  """By the definition: whole logits, and the instruction read anew for each.

  What was said before counts as read, and not as predicted.
  """
  requests = [dataclasses.replace(r, said=said) for r in requests[:4]]
  before = vocabulary.encode_one(said) if said else []
  scores = ranker.score(requests)

  @jax.jit
  def log_p(source, shifted, target):
    logits = Transformer(config).apply(
      {"params": params}, source, shifted, target, enable_dropout=False
    )
    return jnp.take_along_axis(
      jax.nn.log_softmax(logits), target[..., None], -1
    )[..., 0]

  for request, of_request in zip(requests, scores, strict=True):
    source = [[*vocabulary.encode_one(request.instruction), 1]]
    targets = [
      [*before, *vocabulary.encode_one(t), 1] for t in request.candidates
    ]
    target = features.pad(targets, max(map(len, targets)))
    values = log_p(
      np.repeat(source, len(targets), axis=0),
      np.pad(target[:, :-1], ((0, 0), (1, 0))),
      target,
    )
    expected = (values * (target > 0))[:, len(before) :].sum(-1)
    np.testing.assert_allclose(of_request, expected, rtol=1e-5)


def test_what_was_said_is_a_requests_own(ranker, requests):
  said = [
    dataclasses.replace(request, said=" ".join(WORDS[: number % 4]))
    for number, request in enumerate(requests)
  ]
  together = ranker.score_all(said, ("sum", "mean", "pmi"))
  for name, scores in together.items():
    alone = [ranker.score_all([each], (name,))[name][0] for each in said]
    plain = ranker.score_all(requests, (name,))[name]
    # Where nothing was said, nothing differs. A difference may be about 0.
    for one, other in zip(
      [*scores, *scores[::4]], [*alone, *plain[::4]], strict=True
    ):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert not np.allclose(scores[3], ranker.score(requests)[3])


def test_scores_do_not_depend_on_batch_neighbours(ranker, requests, scores):
  assert_same(ranker.score(requests[17:18]), scores[17:18])
  assert_same(ranker.score(requests[::-1]), scores[::-1])


def test_scores_do_not_depend_on_the_order_of_candidates(
  ranker, requests, scores
):
  turned = [
    dataclasses.replace(request, candidates=request.candidates[::-1])
    for request in requests
  ]
  assert_same(ranker.score(turned), [values[::-1] for values in scores])


def test_scores_do_not_depend_on_other_candidates(ranker, requests, scores):
  fewer = [
    dataclasses.replace(request, candidates=request.candidates[-1:])
    for request in requests
  ]
  assert_same(ranker.score(fewer), [values[-1:] for values in scores])


def test_scores_do_not_depend_on_padding(
  config, params, vocabulary, requests, scores, monkeypatch
):
  monkeypatch.setattr(shapes, "_round_up", lambda size, _: size + 77)
  padded = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  assert_same(padded.score(requests), scores)


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_scores_do_not_depend_on_the_mesh(
  config, params, vocabulary, requests, scores, data, model
):
  split = T5Ranker(
    config=config,
    params=params,
    vocabulary=vocabulary,
    mesh=mesh_lib.make_mesh(data=data, model=model),
  )
  assert_same(split.score(requests), scores)


@pytest.mark.parametrize("kind", ["checkpoint", "export", "int8"])
def test_a_mesh_is_loaded_part_by_part(
  config, params, vocabulary, tmp_path, monkeypatch, kind
):
  """No device is given more than its part, nor is the host."""
  model_folder.save_config(tmp_path, config)
  shutil.copy(vocabulary.path, tmp_path / model_folder.VOCABULARY_FILE)
  if kind == "checkpoint":
    path = tmp_path.joinpath(model_folder.CHECKPOINTS, "7", "params")
    orbax.checkpoint.PyTreeCheckpointer().save(path, params)
  else:
    stored = int8.from_floats(params) if kind == "int8" else params
    export_folder.write_params(tmp_path, stored)
    export_folder.write_manifest(tmp_path, name="tiny", step=7)
  mesh = mesh_lib.make_mesh("2x4")
  given = []

  def to_devices(tree, shardings):
    given.append((tree, shardings))
    return tree

  monkeypatch.setattr(mesh_lib, "to_devices", to_devices)
  T5Ranker.load(tmp_path, mesh=mesh)
  ((tree, shardings),) = given
  assert int8.is_int8(tree) == (kind == "int8")
  placed = jax.tree.map(lambda leaf, to: leaf.sharding == to, tree, shardings)
  assert all(jax.tree.leaves(placed))
  # Norms and tables alone are whole on each of the four.
  sizes = [
    (leaf.addressable_shards[0].data.nbytes, leaf.nbytes)
    for leaf in jax.tree.leaves(tree)
  ]
  on_one, of_all = map(sum, zip(*sizes, strict=True))
  assert on_one < 0.3 * of_all


def test_scores_do_not_depend_on_rows(
  config, params, vocabulary, requests, scores, monkeypatch
):
  """Tries cut into rows that repeat what they share."""
  monkeypatch.setattr(tokenization, "ROW_LENGTHS", (24, 1024))
  split = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  assert_same(split.score(requests), scores)
  tokenized = tokenization.tokenize(requests, vocabulary.encode_one)
  assert tokenization.Chunk(tokenized).own_sizes[:, 2].max() > 1


def test_scores_are_alike_on_processors_and_accelerators(
  config, params, vocabulary, requests, scores
):
  """Attention in all rows at once, as an accelerator does it."""
  config = dataclasses.replace(config, loop_over_examples=False)
  at_once = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  assert_same(at_once.score(requests), scores)


def test_scores_of_the_kernel_are_those_of_plain_attention(
  config, params, vocabulary, requests, scores
):
  config = dataclasses.replace(config, attention="pallas")
  for mesh in (None, mesh_lib.make_mesh(data=4, model=2)):
    ranker = T5Ranker(
      config=config, params=params, vocabulary=vocabulary, mesh=mesh
    )
    assert_same(ranker.score(requests), scores)


def test_scores_do_not_depend_on_how_many_candidates_there_are(
  config, params, vocabulary, requests, scores
):
  """More than fit one piece, one of them longer than a usual row."""
  titles = map(" ".join, itertools.product(WORDS, repeat=3))
  request = dataclasses.replace(
    requests[3], candidates=(*titles, "tent " * 300, *requests[3].candidates)
  )
  assert len(tokenization.tokenize([request], vocabulary.encode_one)) > 1
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  (values,) = ranker.score([request])
  assert_same([values[-len(scores[3]) :]], [scores[3]])


def test_rematerialisation_changes_nothing(
  config, params, vocabulary, requests, scores
):
  """A model folder keeps what its training was configured with."""
  saved = dataclasses.replace(config, remat_policy="full", dropout_rate=0.5)
  ranker = T5Ranker(config=saved, params=params, vocabulary=vocabulary)
  assert_same(ranker.score(requests[:4]), scores[:4])


def test_the_same_candidate_twice_is_an_exact_tie(ranker, requests):
  request = dataclasses.replace(
    requests[3], candidates=("green tent", "rope", "green  tent")
  )
  (values,) = ranker.score([request])
  assert values[0] == values[2] != values[1]


def test_few_shapes_are_compiled(config, params, vocabulary, monkeypatch):
  monkeypatch.setattr(shapes, "TOKENS_PER_SHAPE", 0)
  rng = np.random.default_rng(0)
  ranker = T5Ranker(
    config=config, params=params, vocabulary=vocabulary, batch_tokens=64
  )
  for length in (5, 30, 90, 250, 60, 400):
    ranker.score(
      [
        RankingRequest(
          request_id=str(number),
          instruction="tent " * int(rng.integers(1, length)),
          candidates=tuple(WORDS[: int(rng.integers(1, 9))]),
        )
        for number in range(3)
      ]
    )
  assert 3 <= ranker.compiled_shapes <= shapes.MAX_SHAPES
  assert ranker._score_batch._cache_size() == ranker.compiled_shapes


@pytest.mark.parametrize("float32_attention_logits", [False, True])
def test_bfloat16_scores_are_alike_to_its_rounding(
  config, params, vocabulary, requests, scores, float32_attention_logits
):
  rounded = T5Ranker(
    config=dataclasses.replace(
      config,
      dtype="bfloat16",
      float32_attention_logits=float32_attention_logits,
    ),
    params=params,
    vocabulary=vocabulary,
  )
  found = rounded.score(requests)
  differs = 0.0
  for one, exact in zip(found, scores, strict=True):
    np.testing.assert_allclose(one, exact, rtol=0.03)
    differs = max(differs, float(np.abs(one / exact - 1).max()))
  assert differs > 1e-5, "nothing was rounded"
  for number, alone in enumerate(map(rounded.score, zip(requests[:5]))):
    np.testing.assert_allclose(alone[0], found[number], rtol=0.02)


def test_weights_that_are_no_numbers_are_refused(
  config, params, vocabulary, requests
):
  broken = jax.tree.map(lambda array: array * np.nan, params)
  ranker = T5Ranker(config=config, params=broken, vocabulary=vocabulary)
  for name in ("sum", "ghost_free"):
    with pytest.raises(InputError, match="check its weights"):
      ranker.score_all(requests, (name,))


def test_no_requests_no_scores(ranker):
  assert ranker.score([]) == []


def test_a_request_that_cannot_be_scored_is_named(ranker, requests):
  bare = dataclasses.replace(requests[0], request_id="r7", candidates=())
  with pytest.raises(InputError, match="request r7: it has no candidates"):
    ranker.score([requests[0], bare])


def test_a_vocabulary_that_does_not_fit_is_refused(config, params, shared):
  from instructrec_jax.text.vocabulary import Vocabulary

  big = Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")
  with pytest.raises(InputError, match="do not fit a model of vocab_size"):
    T5Ranker(config=config, params=params, vocabulary=big)


def test_scores_equal_hugging_face(config, params, vocabulary, requests):
  reason = "torch and transformers are absent: pip install -e '.[parity]'"
  torch = pytest.importorskip("torch", reason=reason)
  transformers = pytest.importorskip("transformers", reason=reason)
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      feed_forward_proj="gated-gelu",
      decoder_start_token_id=0,
      tie_word_embeddings=False,
    )
  ).eval()
  # transformers ties a freshly made model whatever it is asked.
  model.lm_head.weight = torch.nn.Parameter(
    torch.empty_like(model.shared.weight)
  )
  tensors = hugging_face.to_state_dict(leaves_of(params))
  state = {name: torch.tensor(leaf.read()) for name, leaf in tensors.items()}
  model.load_state_dict(state, strict=False)
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  for request, values in zip(
    requests[:3], ranker.score(requests[:3]), strict=True
  ):
    source = torch.tensor([[*vocabulary.encode_one(request.instruction), 1]])
    for text, score in zip(request.candidates, values, strict=True):
      target = torch.tensor([[*vocabulary.encode_one(text), 1]])
      with torch.no_grad():
        logits = model(input_ids=source, labels=target).logits
      log_p = torch.log_softmax(logits, -1).gather(-1, target[..., None])
      assert abs(float(log_p.sum()) - score) < 1e-4 * abs(score)


def test_threads_that_score_at_a_time_get_what_one_gets(
  config, params, vocabulary, requests
):
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  alone = [ranker.score([request])[0] for request in requests]
  fresh = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda r: fresh.score([r])[0], requests * 3))
  for one, other in zip(alone * 3, found, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
  assert fresh.compiled_shapes == fresh._score_batch._cache_size()


def test_a_shape_is_added_for_what_will_come(
  config, params, vocabulary, requests
):
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  for together in (len(requests), 1):
    ranker.add_shape(requests, together=together)
  ranker.score(requests)
  for request in requests:
    ranker.score([request])
  assert ranker.compiled_shapes == 2
