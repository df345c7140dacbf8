"""Tests for instructrec_jax/evaluation/probe.py."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrec_jax.data.splits import Sequences, leave_one_out
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import probe as probe_lib
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.probe import parse_cutoff, probe, to_table
from instructrec_jax.records import Item
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer
from instructrec_jax.text.vocabulary import EOS_ID, train_vocabulary

from .conftest import pick

SYLLABLES = "ba ke li mo nu ra se ti vo zu".split()
USERS, LENGTH = 48, 7
DAY = 86_400
NEW_YEAR = parse_cutoff("2019-12-31")


@pytest.fixture(scope="module")
def folder():
  """Users who bought at random: there is nothing to learn, but by heart."""
  rng = np.random.default_rng(0)
  titles = [f"{a}{b}{c}" for a in SYLLABLES for b in SYLLABLES for c in "xyz"]
  titles = rng.permutation(titles)[:80]
  own = [rng.permutation(len(titles))[:LENGTH] for _ in range(USERS)]
  sequences = Sequences(
    np.concatenate(own).astype(np.int32), np.arange(USERS + 1) * LENGTH
  )
  # Half of the users buy in 2019, the others a year later.
  late = np.repeat(np.arange(USERS) % 2 * 365 * DAY, LENGTH)
  return types.SimpleNamespace(
    path="shop",
    items=[Item(str(n), f"{title} {n}") for n, title in enumerate(titles)],
    sequences=sequences,
    splits=leave_one_out(sequences),
    timestamps=NEW_YEAR - 100 * DAY + late + np.tile(range(LENGTH), USERS),
  )


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
  """The arguments of a small ranker of random weights."""
  path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.model"
  texts = [item.title for item in folder.items] + [probe_lib._history([])]
  vocabulary = train_vocabulary(texts, path, size=90)
  config = T5Config(
    vocab_size=vocabulary.model_vocab_size,
    emb_dim=64,
    num_heads=4,
    head_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=128,
    dropout_rate=0.0,
  )
  params = parameters.initial_variables(config)["params"]
  return {"config": config, "params": params, "vocabulary": vocabulary}


def trained(model, pairs):
  """The ranker after it was shown beginnings and their completions."""
  encode = model["vocabulary"].encode_one

  def rows(texts):
    ids = [[*encode(text), EOS_ID] for text in texts]
    padded = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, of_text in zip(padded, ids, strict=True):
      row[: len(of_text)] = of_text
    return padded

  inputs, targets = map(rows, zip(*pairs, strict=True))
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  network = Transformer(model["config"])
  optimizer = optax.adam(3e-3)

  @jax.jit
  def step(params, state):
    def loss(params):
      logits = network.apply(
        {"params": params}, inputs, shifted, targets, enable_dropout=False
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
      return jnp.where(targets > 0, losses, 0).sum() / (targets > 0).sum()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, value

  params, state = model["params"], optimizer.init(model["params"])
  value = np.inf
  while value > 0.1:
    for _ in range(25):
      params, state, value = step(params, state)
  return T5Ranker(**{**model, "params": params})


def histories(folder, targets):
  """The beginnings and completions that the probe makes of targets."""
  pairs = []
  for user, position in targets:
    items = probe_lib._window(folder, user, position)
    titles = [folder.items[item].title for item in items]
    pairs.append((probe_lib._history(titles[:-1]), titles[-1]))
  return pairs


def groups(rows, kind):
  return {row["group"]: row for row in rows if row["probe"] == kind}


def holds_zero(row):
  return row["low"] <= 0 <= row["high"]


def test_training_histories_are_known_by_heart_and_others_are_not(
  folder, model
):
  # The last training target of each user.
  seen = histories(folder, [(user, LENGTH - 3) for user in range(USERS)])
  ranker = trained(model, seen)
  found = groups(probe({"model": ranker}, folder, split="test"), "histories")
  assert found["training"]["low"] > 1
  assert holds_zero(found["test"])
  assert found["training - test"]["low"] > 1
  assert found["training"]["n"] == found["test"]["n"] == USERS
  orders = groups(probe({"model": ranker}, folder, split="test"), "orders")
  assert orders["training"]["low"] > 0


def test_what_was_before_the_cut_off_is_known(folder, model):
  # The test targets of those who bought in 2019.
  early = [(user, LENGTH - 1) for user in range(0, USERS, 2)]
  ranker = trained(model, histories(folder, early))
  rows = probe({"model": ranker}, folder, split="test", cutoff="2019-12-31")
  found = groups(rows, "histories")
  assert found["before"]["low"] > 1 and holds_zero(found["after"])
  assert found["before - after"]["low"] > 1
  assert found["before"]["n"] == found["after"]["n"] == USERS // 2


@pytest.mark.parametrize("cutoff", [None, "2019-12-31"])
def test_a_random_model_has_seen_nothing(folder, model, cutoff):
  ranker = T5Ranker(**model)
  rows = probe({"model": ranker}, folder, split="test", cutoff=cutoff)
  assert {row["probe"] for row in rows} == {"titles", "histories", "orders"}
  # Of nine to a dozen intervals of 95% one may miss.
  assert sum(not holds_zero(row) for row in rows) <= 1
  assert max(abs(row["value"]) for row in rows) < 0.5


def test_pairs_are_compared_with_others_of_their_group():
  rng = np.random.default_rng(0)
  pairs = [(f"b{n}", f"c{n % 3}") for n in range(6)]
  for number, (own, *others) in enumerate(probe_lib._with_others(pairs, rng)):
    assert own == pairs[number] and len(others) == 4
    for beginning, completion in others:
      assert completion == own[1]
      # Another's that does not end the same.
      assert dict(pairs)[beginning] != completion
  for beginning, last in probe_lib._shuffled(["a", "b", "c", "end"], rng):
    assert last == "end" and beginning != probe_lib._history(["a", "b", "c"])
  assert probe_lib._halves("one two three") == (
    "The title of a product begins: one",
    "two three",
  )
  assert not all(probe_lib._halves("one"))


def test_bad_input_is_one_sentence(folder, built, tiny_model, tmp_path):
  with pytest.raises(InputError, match="'2020-02-30': a day such as"):
    parse_cutoff("2020-02-30")
  assert parse_cutoff("1970-01-01") == DAY
  other = types.SimpleNamespace(
    **{**vars(folder), "timestamps": np.arange(336)}
  )
  with pytest.raises(InputError, match="no dates in seconds"):
    probe({}, other, split="test", cutoff="2020-01-01")  # pyright: ignore
  arguments = {"dataset": built, "out": tmp_path / "out", "rankers": ["random"]}
  with pytest.raises(InputError, match="--probe asks a model"):
    evaluate(**arguments, probe=True)
  with pytest.raises(InputError, match="--cutoff is of --probe"):
    evaluate(**arguments, model=tiny_model, cutoff="2020-01-01")
  assert not (tmp_path / "out").exists()


def test_evaluate_probes_the_models_it_is_given(built, tiny_model, tmp_path):
  results = evaluate(
    dataset=built,
    out=tmp_path / "out",
    model=tiny_model,
    zero_shot=tiny_model,
    scenarios=["sequential"],
    rankers=["random"],
    limit=12,
    probe=True,
  )
  assert {row["ranker"] for row in results["probe"]} == {"model", "zero_shot"}
  for row in pick(results, "probe", ranker="model", probe="histories"):
    assert row["low"] <= row["value"] <= row["high"]
  table = to_table(results["probe"], {"model": "mine"}).markdown()
  assert " training - test |" in table and "\n| mine " in table
  assert "### Contamination probe" in (tmp_path / "out/results.md").read_text()
