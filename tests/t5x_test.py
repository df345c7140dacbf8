"""Real T5X runs gin/t5x, and agrees with our trainer and our scorer.

T5X is found by INSTRUCTREC_T5X, a checkout with AirIO's and JEstimator's
beside it, or installed (docs/t5x.md). Some minutes on two cores.
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import gin
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from instructrec_jax.checkpoints.conversion import convert
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.generation.generator import Decoding, Generator
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import lora, parameters
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.seqio_bridge.registration import use_dataset
from instructrec_jax.text.vocabulary import Vocabulary
from instructrec_jax.training import optimizer, state, step

PATHS = []
if checkout := os.environ.get("INSTRUCTREC_T5X"):
  beside = pathlib.Path(checkout).absolute().parent
  PATHS = [checkout, str(beside / "airio"), str(beside / "jestimator")]
  sys.path += PATHS
try:
  from t5x import train_state, trainer, utils
except ImportError as error:
  if checkout:
    # Asked for: a run without it must not look as if it had passed.
    raise RuntimeError(
      f"INSTRUCTREC_T5X is set, and T5X does not import ({error}): `python "
      "tools/t5x_missing.py` tells what is missing"
    ) from error
  pytest.skip(
    f"T5X is absent ({error}): install it as docs/t5x.md says, or name a "
    "checkout in INSTRUCTREC_T5X",
    allow_module_level=True,
  )

ROOT = pathlib.Path(__file__).resolve().parent.parent
RANKING = "instructrec_rank_sequential_v1"
LENGTHS = {"inputs": 256, "targets": 32}
STEPS = 50
# A constant, so that each side divides by the same number.
NORMALIZER = 100.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  """A small shop's dataset folder."""
  path = tmp_path_factory.mktemp("shop") / "data"
  prepare(out=path, format="synthetic", users=40, min_count=0)
  families = ("p1_i0_t2", "p1_i0_t3")
  build(path, train_vocabulary_size=400, options=Options(families=families))
  return path


@pytest.fixture(scope="module")
def t5x(dataset, tmp_path_factory):
  """Returns a function that runs one of T5X's scripts as a user does."""
  runs = tmp_path_factory.mktemp("runs")

  def run(
    script: str,
    *files: str,
    data: pathlib.Path = dataset,
    devices: int = 1,
    fails: bool = False,
    **macros,
  ) -> str:
    # Not the simulated devices of the other tests.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *PATHS])
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    macros = {"VOCAB_SIZE": 512} | macros
    done = subprocess.run(
      [
        sys.executable,
        *("-m", f"t5x.{script}", f"--tfds_data_dir={data}"),
        *(f"--gin_file={name}" for name in files),
        *(f"--gin.{name}={value!r}" for name, value in macros.items()),
        "--alsologtostderr",
      ],
      cwd=ROOT,
      env=env,
      capture_output=True,
      text=True,
    )
    assert bool(done.returncode) == fails, done.stderr[-3000:]
    return done.stderr

  run.folder = runs
  return run


def _train(t5x, more: tuple[str, ...] = (), **macros) -> str:
  usual = {
    "MODEL_DIR": str(t5x.folder / "tiny"),
    "TASK_FEATURE_LENGTHS": LENGTHS,
    "RANKED_EXAMPLES": 100,
  }
  return t5x("train", "gin/t5x/tiny.gin", *more, **(usual | macros))


@pytest.fixture(scope="module")
def trained(t5x):
  """The folder of a finished run of 50 steps."""
  _train(t5x)
  return t5x.folder / "tiny"


@pytest.fixture(scope="module")
def bound(dataset):
  """What gin/t5x binds, without dropout: the config and T5X's model."""
  use_dataset(dataset)
  return _bound()


def _bound(*files: str, bindings: tuple[str, ...] = ()):
  folder = os.getcwd()
  os.chdir(ROOT)
  gin.clear_config()
  try:
    gin.parse_config_files_and_bindings(
      ["gin/model/mini.gin", "gin/t5x/model.gin", *files],
      [
        "VOCAB_SIZE = 512",
        "DROPOUT_RATE = 0.0",
        f"LOSS_NORMALIZING_FACTOR = {NORMALIZER}",
        *bindings,
      ],
      # T5X's script, which is not what runs here, and what it alone requires.
      skip_unknown=["train_script.train"],
      finalize_config=False,
    )
    return (
      gin.get_configurable("config.T5Config")(),
      gin.get_configurable("models.EncoderDecoderModel")(),
    )
  finally:
    os.chdir(folder)
    gin.clear_config()


def _restored(checkpoint: pathlib.Path):
  tree = ocp.PyTreeCheckpointer().restore(checkpoint / "state")
  return jax.tree.map(np.asarray, tree)


def _params(checkpoint: pathlib.Path):
  # T5X's tree is ours.
  return _restored(checkpoint)["target"]


def _metrics(folder: pathlib.Path) -> list[dict[str, float]]:
  path = folder / "inference_eval" / f"{RANKING}-metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def _our_scores(dataset, bound, checkpoint):
  path = dataset / "requests" / "sequential_test.parquet"
  requests = list(read_requests(path))
  ranker = T5Ranker(
    config=bound[0],
    params=_params(checkpoint),
    vocabulary=Vocabulary.load(dataset / "vocabulary.model"),
  )
  return requests, ranker.score(requests)


def test_it_trains_saves_ranks_and_resumes(t5x, trained):
  assert {"checkpoint_0", "checkpoint_50"} <= {
    p.name for p in trained.iterdir()
  }
  (first,) = _metrics(trained)
  assert first["step"] == STEPS and first["requests"] == 10
  assert 0 <= first["hr@1"] <= first["ndcg@3"] <= first["hr@3"] <= 1
  log = _train(t5x, TRAIN_STEPS=60, EVAL_PERIOD=10, CHECKPOINT_PERIOD=10)
  assert "Initialize/restore complete" in log
  assert "Training: step 50" in log and "Training: step 0" not in log
  assert [m["step"] for m in _metrics(trained)] == [50, 60]
  assert (trained / "checkpoint_60").is_dir()


def test_its_evaluation_says_what_our_table_says(t5x, trained, dataset, bound):
  t5x(
    "eval",
    "gin/model/mini.gin",
    "gin/t5x/eval.gin",
    CHECKPOINT_PATH=str(trained / "checkpoint_50"),
    EVAL_OUTPUT_DIR=str(t5x.folder / "eval"),
  )
  (found,) = _metrics(t5x.folder / "eval")
  requests, scores = _our_scores(dataset, bound, trained / "checkpoint_50")
  expected = ranking_metrics(scores, [r.target for r in requests])
  assert found["requests"] == len(requests)
  for name in ("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5"):
    assert found[name] == pytest.approx(expected[name].mean(), abs=1e-6)


def test_it_scores_as_our_scorer(t5x, trained, dataset, bound):
  t5x(
    "infer",
    "gin/model/mini.gin",
    "gin/t5x/infer.gin",
    CHECKPOINT_PATH=str(trained / "checkpoint_50"),
    INFER_OUTPUT_DIR=str(t5x.folder / "infer"),
  )
  path = t5x.folder / "infer" / f"{RANKING}-score.jsonl-00000-of-00001"
  found = {}
  for line in path.read_text().splitlines():
    row = json.loads(line)
    inputs = row["inputs"]
    found[inputs["request_id"], inputs["candidate"]] = row["score"]
  requests, scores = _our_scores(dataset, bound, trained / "checkpoint_50")
  expected = {
    (request.request_id, place): value
    for request, values in zip(requests, scores, strict=True)
    for place, value in enumerate(values)
  }
  assert found == pytest.approx(expected, abs=1e-4)
  # And as `tools/score_batch.py` does, on T5X's checkpoint in place.
  out = t5x.folder / "scores.jsonl"
  command = [
    *(sys.executable, "tools/score_batch.py", "--model", trained),
    *("--step", str(STEPS), "--out", out, "--requests"),
    dataset / "requests" / "sequential_test.parquet",
  ]
  subprocess.run(command, cwd=ROOT, check=True)
  rows = map(json.loads, out.read_text().splitlines())
  in_place = {
    (row["request_id"], place): value
    for row in rows
    for place, value in enumerate(row["scores"])
  }
  assert in_place == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 4])
def test_it_writes_as_our_generator(t5x, trained, dataset, beams):
  """Predict mode, by beam search as by its greedy decoding."""
  out = t5x.folder / f"predict{beams}"
  t5x(
    "infer",
    "gin/model/mini.gin",
    "gin/t5x/predict.gin",
    CHECKPOINT_PATH=str(trained / "checkpoint_50"),
    INFER_OUTPUT_DIR=str(out),
    NUM_DECODES=beams,
    TASK_FEATURE_LENGTHS=LENGTHS,
  )
  (path,) = out.glob("*predict.jsonl-00000-of-00001")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  instructions = [row["inputs"]["inputs_pretokenized"] for row in rows]
  generator = Generator.load(
    trained, vocabulary=dataset / "vocabulary.model", step=STEPS
  )
  decoding = Decoding(max_tokens=LENGTHS["targets"])
  if beams > 1:
    decoding = dataclasses.replace(
      decoding, beams=beams, length_penalty=0.6, rules="t5x"
    )
  answers = generator.generate(instructions, decoding)
  assert len(rows) > 5
  assert [row["prediction"] for row in rows] == [a.text for a, *_ in answers]


def test_checkpoints_go_there_and_back(t5x, trained, dataset, bound, tmp_path):
  vocabulary = dataset / "vocabulary.model"
  theirs = trained / "checkpoint_50"
  convert(theirs, tmp_path / "ours", to="ours", vocabulary=vocabulary)
  convert(tmp_path / "ours", tmp_path / "back", to="t5x")
  requests, expected = _our_scores(dataset, bound, theirs)
  found = T5Ranker.load(tmp_path / "ours").score(requests)
  np.testing.assert_array_equal(found, expected)
  # T5X goes on from what we wrote, its optimizer set up anew ...
  log = t5x(
    "train",
    "gin/model/mini.gin",
    "gin/t5x/finetune.gin",
    "gin/t5x/fresh_optimizer.gin",
    MODEL_DIR=str(t5x.folder / "tuned"),
    INITIAL_CHECKPOINT_PATH=str(tmp_path / "back" / "checkpoint_50"),
    TASK_FEATURE_LENGTHS=LENGTHS,
    BATCH_SIZE=8,
    TRAIN_STEPS=52,
    EVAL_PERIOD=2,
    EVAL_STEPS=1,
    CHECKPOINT_PERIOD=2,
    RANKED_EXAMPLES=100,
  )
  assert "Training: step 50" in log
  # ... and from parameters that are those it had written itself.
  jax.tree.map(
    np.testing.assert_array_equal,
    _params(t5x.folder / "tuned" / "checkpoint_50"),
    _params(theirs),
  )
  convert(
    t5x.folder / "tuned", tmp_path / "tuned", to="ours", vocabulary=vocabulary
  )
  assert len(T5Ranker.load(tmp_path / "tuned").score(requests[:1])) == 1


def test_its_losses_are_our_trainer_s(trained, dataset, bound, tmp_path):
  config, model = bound
  _dump_batches(tmp_path / "batches.npz", dataset, model)
  params = _params(trained / "checkpoint_0")
  theirs, ours = (
    np.array(list(curve(tmp_path / "batches.npz", params, config, model)))
    for curve in (_their_losses, _our_losses)
  )
  assert len(ours) == STEPS
  # It learns, or equality would show little.
  assert ours[-1] < 0.9 * ours[0]
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_lora_trains_adapters_alone(t5x, trained, dataset, tmp_path):
  folder = t5x.folder / "lora"
  for steps in (52, 54):  # the latter resumes
    t5x(
      "train",
      "gin/model/mini.gin",
      "gin/t5x/lora.gin",
      MODEL_DIR=str(folder),
      INITIAL_CHECKPOINT_PATH=str(trained / "checkpoint_50"),
      TASK_FEATURE_LENGTHS=LENGTHS,
      LORA_RANK=4,
      BATCH_SIZE=8,
      MICROBATCHES=2,
      TRAIN_STEPS=steps,
      EVAL_PERIOD=2,
      EVAL_STEPS=1,
      CHECKPOINT_PERIOD=2,
      RANKED_EXAMPLES=100,
    )
  base = _params(trained / "checkpoint_50")
  new, _ = lora.split(_params(folder / "checkpoint_50"))
  tree = _restored(folder / "checkpoint_54")
  adapters, frozen = lora.split(tree["target"])
  jax.tree.map(np.testing.assert_array_equal, frozen, base)
  moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), adapters, new)
  assert all(jax.tree.leaves(moved)) and len(jax.tree.leaves(moved)) == 72
  # AdamW's two averages of each, and counts of steps; none of the rest.
  states = [x for x in jax.tree.leaves(tree["state"]) if x.shape]
  assert sum(x.size for x in states) == 2 * sum(
    x.size for x in jax.tree.leaves(adapters)
  )
  assert int(tree["state"]["step"]) == 54
  # What T5X scores with adapters, ours scores with them merged.
  t5x(
    "infer",
    "gin/model/mini.gin",
    "gin/t5x/infer.gin",
    CHECKPOINT_PATH=str(folder / "checkpoint_54"),
    INFER_OUTPUT_DIR=str(tmp_path / "infer"),
    LORA_RANK=4,
    LORA_ALPHA=32,
  )
  (path,) = (tmp_path / "infer").glob("*-score.jsonl-*-of-00001")
  rows = map(json.loads, path.read_text().splitlines())
  theirs = {
    (row["inputs"]["request_id"], row["inputs"]["candidate"]): row["score"]
    for row in rows
  }
  vocabulary = dataset / "vocabulary.model"
  convert(folder, tmp_path / "ours", to="ours", vocabulary=vocabulary)
  requests = read_requests(dataset / "requests" / "sequential_test.parquet")
  requests = list(requests)
  ours = {
    (request.request_id, place): value
    for request, values in zip(
      requests, T5Ranker.load(tmp_path / "ours").score(requests), strict=True
    )
    for place, value in enumerate(values)
  }
  assert ours == pytest.approx(theirs, abs=1e-4)
  (folder / "config.gin").unlink()
  with pytest.raises(InputError, match="LORA_ALPHA"):
    convert(folder, tmp_path / "unscaled", to="t5x")


def test_lora_s_losses_are_our_trainer_s(trained, dataset, tmp_path):
  use_dataset(dataset)
  config, model = _bound(
    "gin/t5x/lora.gin",
    bindings=("LORA_RANK = 4", "LEARNING_RATE = 3e-3"),
  )
  _dump_batches(tmp_path / "batches.npz", dataset, model)
  random = parameters.initial_variables(config, seed=1)["params"]
  params = lora.join(lora.split(random)[0], _params(trained / "checkpoint_50"))
  theirs, ours = (
    np.array(list(curve(tmp_path / "batches.npz", params, config, model)))
    for curve in (_their_losses, _our_losses)
  )
  assert ours[-1] < 0.95 * ours[0]
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def _dump_batches(path, dataset, model) -> None:
  """Writes packed batches as T5X's own input pipeline makes them."""
  import seqio

  import tasks  # noqa: F401

  seqio.set_tfds_data_dir_override(str(dataset))
  rows = utils.get_dataset(
    utils.DatasetConfig(
      mixture_or_task_name="instructrec_all_v1",
      task_feature_lengths=LENGTHS,
      split="train",
      batch_size=8,
      shuffle=True,
      seed=0,
      pack=True,
    ),
    shard_id=0,
    num_shards=1,
    feature_converter_cls=model.FEATURE_CONVERTER_CLS,
  )
  batches = list(rows.take(STEPS).as_numpy_iterator())
  np.savez(path, **{k: np.stack([b[k] for b in batches]) for k in batches[0]})


def _batches(path):
  with np.load(path) as file:
    features = dict(file)
  for number in range(STEPS):
    yield {name: values[number] for name, values in features.items()}


def _their_losses(path, params, config, model):
  run = jax.jit(
    functools.partial(trainer.train_with_lr, model=model, num_microbatches=None)
  )
  rng = jax.random.PRNGKey(0)
  shapes = {
    f"{side}_input_tokens": (8, LENGTHS[name])
    for side, name in (("encoder", "inputs"), ("decoder", "targets"))
  }
  types = dict.fromkeys(shapes, "int32")
  variables = model.get_initial_variables(rng, shapes, types)
  current = train_state.FlaxOptimTrainState.create(
    model.optimizer_def, {**variables, "params": params}
  )
  for batch in _batches(path):
    current, metrics = run(current, batch, 1e-3, rng)
    yield metrics["loss"].total


def _our_losses(path, params, config, model):
  chosen = optimizer.adafactor(1e-3)
  if config.lora_rank:
    chosen = optimizer.adamw(3e-3)
  run = jax.jit(
    functools.partial(
      step.train_step,
      config=config,
      optimizer=chosen,
      loss_normalizing_factor=NORMALIZER,
    )
  )
  adapters, base = lora.split(params)
  current = state.initial_state(config, chosen, seed=0, params=base)
  if config.lora_rank:
    current = current.replace(params=adapters)
  for batch in _batches(path):
    current, metrics = run(current, batch, jax.random.key(0))
    yield metrics["loss"]


def test_the_same_data_seed_gives_the_same_model(t5x, trained):
  _train(t5x, MODEL_DIR=str(t5x.folder / "again"))
  assert _metrics(t5x.folder / "again") == _metrics(trained)[:1]
  jax.tree.map(
    np.testing.assert_array_equal,
    _params(t5x.folder / "again" / "checkpoint_50"),
    _params(trained / "checkpoint_50"),
  )


def test_two_datasets_and_a_user_s_template(t5x, dataset, tmp_path):
  """Trained on a mixture of both, by gin; ranked and scored on the second."""
  second = tmp_path / "second"
  prepare(out=second, format="synthetic", users=30, min_count=0, seed=1)
  (tmp_path / "mine.yaml").write_text(
    "- {name: Z01, preferences: [P1], task_form: T3, response: item, "
    "text: 'Had: {history}. Which of these is next? {candidates}'}"
  )
  build(
    second,
    vocabulary=dataset / "vocabulary.model",
    options=Options(
      templates=(str(tmp_path / "mine.yaml"),), families=("p1_i0_t3",)
    ),
  )
  parts = ["instructrec_one_p1_i0_t3_v1", "instructrec_two_z01_v1"]
  (tmp_path / "both.gin").write_text(
    "from __gin__ import dynamic_registration\n"
    "from instructrec_jax import tasks\n"
    "MIXTURE_OR_TASK_NAME = @tasks.mix()\n"
    f"tasks.mix.parts = {parts}\n"
    f"tasks.mix.datasets = {{'one': '{dataset}', 'two': '{second}'}}\n"
    "LOSS_MIXTURE = 'instructrec_two_z01_v1'\n"
    "RANKING = 'instructrec_two_rank_sequential_v1'\n"
  )
  ranking = "instructrec_two_rank_sequential_v1"
  _train(
    t5x,
    more=(str(tmp_path / "both.gin"),),
    MODEL_DIR=str(tmp_path / "both"),
    TRAIN_STEPS=4,
    EVAL_PERIOD=4,
    CHECKPOINT_PERIOD=4,
    RANKED_EXAMPLES=None,
  )
  path = tmp_path / "both" / "inference_eval" / f"{ranking}-metrics.jsonl"
  assert json.loads(path.read_text())["requests"] == 30
  # What has no name is of --tfds_data_dir; here its own templates.
  own = t5x(
    "infer",
    "gin/model/mini.gin",
    "gin/t5x/infer.gin",
    data=second,
    CHECKPOINT_PATH=str(tmp_path / "both" / "checkpoint_4"),
    INFER_OUTPUT_DIR=str(tmp_path / "infer"),
    MIXTURE_OR_TASK_NAME="instructrec_z01_v1",
  )
  assert own
  (scored,) = (tmp_path / "infer").glob("*-score.jsonl-*-of-00001")
  first = json.loads(scored.read_text().splitlines()[0])
  assert first["inputs"]["inputs_pretokenized"].startswith("Had: ")


def test_what_t5x_would_fail_on_is_one_sentence(t5x):
  told = _train(t5x, MODEL_DIR="/nowhere/x", devices=8, fails=True)
  assert "which do not divide its 4 heads: pass" in told
  assert "IndivisibleError" not in told
  told = t5x(
    "train",
    "gin/model/mini.gin",
    "gin/t5x/finetune.gin",
    "gin/t5x/fresh_optimizer.gin",
    fails=True,
    MODEL_DIR=str(t5x.folder / "absent"),
    INITIAL_CHECKPOINT_PATH=str(t5x.folder / "nothing" / "checkpoint_3"),
    TRAIN_STEPS=52,
  )
  assert "no checkpoint of T5X; name a folder" in told
  assert "AssertionError" not in told
