import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.monitoring
import numpy as np
import optax
import orbax.checkpoint
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.packed_dataset import pack_pairs
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training import loop, optimizer

SIZES = dict(
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=32,
  dropout_rate=0.1,
)
LAYERS = dict(SIZES, num_encoder_layers=2, num_decoder_layers=3)


def make_pairs(count):
  """Instructions whose answer is the first of the words in them."""
  rng = random.Random(0)
  words = "amber birch cedar delta ember fjord grove haven iris jade".split()
  for _ in range(count):
    chosen = rng.sample(words, 3)
    yield "Which comes first : " + " , ".join(chosen), min(chosen)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  texts = [text for pair in make_pairs(200) for text in pair]
  vocabulary = train_vocabulary(texts, folder / "vocabulary.model", size=100)
  return pack_pairs(
    make_pairs(60),
    vocabulary=vocabulary,
    out=folder / "packed",
    encoder_length=32,
    decoder_length=8,
  )


@pytest.fixture(scope="module")
def train(data):
  def train(model_dir, *, steps, sizes=SIZES, **options):
    defaults = dict(
      data=data,
      config=T5Config(vocab_size=data.manifest["model_vocab_size"], **sizes),
      optimizer=optimizer.adafactor(optimizer.constant(1e-2, 4)),
      batch_size=4,
      checkpoint_period=4,
      log_period=3,
    )
    return loop.train(model_dir=model_dir, steps=steps, **(defaults | options))

  return train


@pytest.fixture(scope="module")
def begun(train, tmp_path_factory):
  """A run of two steps, to be copied."""
  folder = tmp_path_factory.mktemp("begun") / "model"
  train(folder, steps=2)
  return folder


def lines_of(model_dir):
  text = (model_dir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def assert_bit_equal(model_dir, other):
  (_, ours), (_, theirs) = map(model_folder.load_params, (model_dir, other))
  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), ours, theirs)
  assert all(jax.tree.leaves(same)), same


def test_resuming_is_bit_equal_to_training_straight(train, tmp_path):
  straight, resumed = tmp_path / "straight", tmp_path / "resumed"
  values = train(straight, steps=13)
  for steps in (4, 5, 13):
    after = train(resumed, steps=steps)
  assert_bit_equal(straight, resumed)
  for name in ("loss", "accuracy", "grad_norm", "learning_rate"):
    assert values[name] == after[name]
  # What was logged on the way is the same too, but for the clock.
  clocked = {"tokens_per_second", "seconds"}
  found = {line["step"]: line for line in lines_of(resumed)}
  for line in lines_of(straight):
    for name in line.keys() - clocked:
      assert found[line["step"]][name] == line[name]


PROGRAM = textwrap.dedent("""
  import json, pathlib, sys
  from instructrec_jax.seq2seq.config import T5Config
  from instructrec_jax.text.packed_dataset import PackedDataset
  from instructrec_jax.training import loop, optimizer
  model_dir, packed, sizes, steps = sys.argv[1:]
  data = PackedDataset.open(pathlib.Path(packed))
  loop.train(
    model_dir=pathlib.Path(model_dir),
    data=data,
    config=T5Config(
      vocab_size=data.manifest["model_vocab_size"], **json.loads(sizes)
    ),
    optimizer=optimizer.adafactor(optimizer.constant(1e-2, 4)),
    steps=int(steps),
    batch_size=4,
    checkpoint_period=2,
    log_period=3,
  )
""")


def test_a_killed_run_resumes_bit_equal(data, train, compiled, tmp_path):
  steps = 36
  straight, killed = tmp_path / "straight", tmp_path / "killed"
  train(straight, steps=steps, checkpoint_period=2)
  command = [sys.executable, "-c", PROGRAM, killed, data.path]
  command += [json.dumps(SIZES), str(steps)]
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(compiled),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  rng = random.Random(0)
  for _ in range(3):
    process = subprocess.Popen(
      command, env=os.environ | cache, stderr=subprocess.DEVNULL
    )
    before = _last_step(killed)
    # Anywhere between two checkpoints, or in the midst of writing one.
    while _last_step(killed) <= before and process.poll() is None:
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = _last_step(killed)
    assert before < reached, "each start should get further"
    model_folder.load_params(killed)
  assert reached < steps, "the run ended before it was killed"
  train(killed, steps=steps, checkpoint_period=2)
  assert_bit_equal(straight, killed)
  logged = [line["step"] for line in lines_of(killed)]
  assert logged == [line["step"] for line in lines_of(straight)]


def test_a_run_is_gone_on_with_in_a_loop_and_without(train, tmp_path):
  """On disk layers are apart, those of the optimizer's means as well."""

  def run(name, steps, *, scan_layers, copied=None):
    if copied:
      shutil.copytree(copied, tmp_path / name)
    train(
      tmp_path / name,
      steps=steps,
      sizes=LAYERS | dict(dropout_rate=0.0, scan_layers=scan_layers),
      optimizer=optimizer.adamw(1e-2),
    )
    return tmp_path / name

  apart = run("apart", 2, scan_layers=False)
  looped = run("looped", 2, scan_layers=True)
  assert _stored_shapes(looped) == _stored_shapes(apart)
  straight = run("straight", 4, scan_layers=True)
  assert_bit_equal(straight, run("resumed", 4, scan_layers=True, copied=looped))
  # Each goes on with the other's program.
  run("apart", 4, scan_layers=True)
  run("looped", 4, scan_layers=False)
  _, expected = model_folder.load_params(straight)
  for folder in (apart, looped):
    _, params = model_folder.load_params(folder)
    # Adam's first steps are as large for the smallest gradients.
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, expected
    )


def _stored_shapes(model_dir):
  handler = orbax.checkpoint.PyTreeCheckpointHandler()
  shapes = {
    item: handler.metadata(model_dir / "checkpoints" / "2" / item).tree
    for item in ("params", "optimizer")
  }
  return {
    jax.tree_util.keystr(path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }


def _last_step(model_dir):
  folder = model_dir / "checkpoints"
  names = os.listdir(folder) if folder.exists() else []
  return max([int(name) for name in names if name.isdigit()], default=0)


def test_the_folder_is_complete(train, data, tmp_path):
  model_dir = tmp_path / "model"
  train(model_dir, steps=5, config_text="NAME = 1\n")
  assert {path.name for path in model_dir.iterdir()} == {
    *("checkpoints", "config.gin", "events", "metrics.jsonl"),
    *("model.json", "run.json", "vocabulary.model", "checksums.txt"),
  }
  config, params = model_folder.load_params(model_dir)
  assert config.vocab_size == data.manifest["model_vocab_size"]
  assert params["token_embedder"]["embedding"].shape == (config.vocab_size, 16)
  vocabulary = model_folder.load_vocabulary(model_dir)
  assert vocabulary.sha256 == data.manifest["vocabulary_sha256"]
  assert (model_dir / "config.gin").read_text() == "NAME = 1\n"
  lines = lines_of(model_dir)
  assert [line["step"] for line in lines] == [3, 4, 5]
  for line in lines:
    assert line.keys() == {
      *("step", "loss", "z_loss", "accuracy", "target_tokens", "grad_norm"),
      *("learning_rate", "tokens_per_second", "seconds"),
    }
    assert line["tokens_per_second"] > 0
  assert [line["learning_rate"] for line in lines] == pytest.approx(
    [0.005, 0.0075, 0.01]
  )
  assert lines[0]["seconds"] < lines[1]["seconds"] < lines[2]["seconds"]


def test_the_model_learns(train, tmp_path):
  config = dict(SIZES, dropout_rate=0.0)
  path = tmp_path / "model"
  values = train(path, steps=150, sizes=config, checkpoint_period=150)
  first, *_ = lines_of(path)
  assert values["loss"] < first["loss"] / 2


def test_each_checkpoint_is_validated_and_the_best_is_kept(train, tmp_path):
  scores = iter([0.1, 0.7, 0.3, 0.2, 0.4])
  seen = []

  def validate(params):
    seen.append(float(jax.tree.leaves(params)[0].sum()))
    return {model_folder.BEST_METRIC: next(scores), "validation/ndcg@5": 0.5}

  values = train(tmp_path, steps=18, validate=validate)
  assert len(set(seen)) == 5
  assert values[model_folder.BEST_METRIC] == 0.4
  assert model_folder.find_step(tmp_path, "best") == 8
  validated = {
    line["step"]: line[model_folder.BEST_METRIC]
    for line in lines_of(tmp_path)
    if model_folder.BEST_METRIC in line
  }
  assert validated == {4: 0.1, 8: 0.7, 12: 0.3, 16: 0.2, 18: 0.4}


def test_nothing_compiles_once_steps_run(train, tmp_path):
  events = []

  def listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      events.append(duration)

  # Whatever is compiled once in a process is compiled here.
  train(tmp_path / "first", steps=9)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    train(tmp_path / "short", steps=2)
    short = len(events)
    train(tmp_path / "long", steps=40)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert short > 0 and len(events) == 2 * short


def test_training_starts_from_given_weights(train, tmp_path):
  train(tmp_path / "earlier", steps=5)
  config, params = model_folder.load_params(tmp_path / "earlier")
  tiny = optimizer.constant(1e-12)
  values = train(
    tmp_path / "later",
    steps=1,
    initial_params=params,
    optimizer=optimizer.adafactor(tiny),
    seed=1,
  )
  _, after = model_folder.load_params(tmp_path / "later")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, after
  )
  assert values["loss"] < 10


def test_given_weights_are_left_to_their_owner(train, tmp_path):
  train(tmp_path / "earlier", steps=1)
  _, params = model_folder.load_params(tmp_path / "earlier")
  params = jax.device_put(params)
  for name in ("first", "second"):
    train(tmp_path / name, steps=1, initial_params=params)


@pytest.mark.parametrize("make", [optimizer.adafactor, optimizer.adamw])
def test_a_run_goes_on_at_the_rate_that_is_bound_now(train, tmp_path, make):
  """A constant rate is part of the optimizer's state, which is restored."""
  train(tmp_path, steps=2, optimizer=make(1e-2))
  values = train(tmp_path, steps=4, optimizer=make(1e-3))
  assert values["learning_rate"] == pytest.approx(1e-3)
  rates = {line["step"]: line["learning_rate"] for line in lines_of(tmp_path)}
  assert rates[2] == pytest.approx(1e-2) and rates[4] == pytest.approx(1e-3)


def test_a_finished_run_is_left_as_it_is(train, tmp_path):
  values = train(tmp_path, steps=4)
  assert train(tmp_path, steps=4) == values
  assert model_folder.find_step(tmp_path, None) == 4


@pytest.mark.parametrize(
  ("changed", "named"),
  [
    (dict(seed=1), "seed is 0, not 1"),
    (dict(batch_size=2), "batch_size is 4, not 2"),
    (dict(microbatches=2), "microbatches"),
    (dict(z_loss=0.1), "z_loss is 0.0001, not 0.1"),
    (dict(loss_normalizing_factor=9.0), "factor is None, not 9.0"),
    (dict(sizes=dict(SIZES, mlp_dim=64)), "mlp_dim is 32, not 64"),
  ],
)
def test_another_run_is_not_continued(train, begun, tmp_path, changed, named):
  model_dir = shutil.copytree(begun, tmp_path / "model")
  before = (model_dir / "run.json").read_text()
  with pytest.raises(InputError, match=named):
    train(model_dir, steps=4, **changed)
  assert (model_dir / "run.json").read_text() == before
  assert model_folder.load_config(model_dir).mlp_dim == 32


def test_a_run_on_other_data_is_not_continued(train, begun, data, tmp_path):
  other = pack_pairs(
    make_pairs(50),
    vocabulary=data.vocabulary,
    out=tmp_path / "packed",
    encoder_length=32,
    decoder_length=8,
  )
  model_dir = shutil.copytree(begun, tmp_path / "model")
  with pytest.raises(InputError, match="data_sha256"):
    train(model_dir, steps=4, data=other)


@pytest.mark.parametrize(
  "wrong",
  [
    dict(steps=0),
    dict(batch_size="4"),
    dict(checkpoint_period=0),
    dict(seed=-1),
    dict(batch_size=6, microbatches=4),
    dict(config=T5Config(vocab_size=64, **SIZES)),
    dict(sizes=dict(SIZES, emb_dim=-1)),
  ],
)
def test_nothing_is_written_for_what_does_not_fit(train, tmp_path, wrong):
  with pytest.raises(InputError):
    train(tmp_path / "model", **(dict(steps=2) | wrong))
  assert not (tmp_path / "model").exists()


def test_a_loss_that_is_no_number_stops_the_run(train, tmp_path):
  def explode_at_step_5(step):
    return jax.numpy.where(step == 5, 1e30, 1e-3)

  with pytest.raises(InputError, match="loss became nan|inf"):
    train(tmp_path, steps=20, optimizer=optax.sgd(explode_at_step_5))
  # What was saved before is whole.
  _, params = model_folder.load_params(tmp_path)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
