"""Instruction tuning (paper section 2.3.2): read `train` from top to bottom.

The step itself is in `step.py`, what it optimises in `losses.py`.
"""

import functools
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
import tqdm
from jax.sharding import Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import model_folder
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.packed_dataset import PackedDataset
from instructrec_jax.training.batches import prefetched_batches
from instructrec_jax.training.checkpoint import Checkpoints
from instructrec_jax.training.metrics_log import MetricsLog
from instructrec_jax.training.state import initial_state, state_shardings
from instructrec_jax.training.step import train_step

RUN_FILE = "run.json"


def train(
  *,
  model_dir: pathlib.Path,
  config: T5Config,
  data: PackedDataset,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  checkpoint_period: int = 1000,
  log_period: int = 20,
  microbatches: int = 1,
  z_loss: float = 1e-4,
  loss_normalizing_factor: float | None = None,
  seed: int = 0,
  mesh: Mesh | None = None,
  initial_params: Any = None,
  validate: Callable[[Any], Mapping[str, float]] | None = None,
  config_text: str | None = None,
) -> dict[str, float]:
  """Trains to `steps`, or resumes the run that `model_dir` holds.

  A resumed run takes the very steps that an undisturbed one would: rows and
  dropout depend on the seed and the number of the step alone.

  Args:
    model_dir: where everything is written; see `seq2seq.model_folder`.
    config: the model's sizes.
    data: packed rows.
    optimizer: with its schedule, such as `optimizer.adafactor`.
    steps: of the whole run, steps before a resume counted in.
    batch_size: packed rows a step, over all devices.
    checkpoint_period: steps between checkpoints; each is validated first.
    log_period: steps between lines of metrics.jsonl.
    microbatches: parts that a batch is taken in.
    z_loss: weight of T5X's z-loss.
    loss_normalizing_factor: the number of target tokens if None.
    seed: of weights, order and dropout.
    mesh: of `mesh.make_mesh`; one device if None.
    initial_params: weights to start from; random if None.
    validate: from parameters to metrics; the checkpoint with the largest
      `model_folder.BEST_METRIC` is kept.
    config_text: what configured the run, to be kept as config.gin.

  Returns:
    The metrics of the last step.

  Raises:
    InputError: `model_dir` holds another run, or the loss is no number.
  """
  model_dir = pathlib.Path(model_dir).absolute()
  mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
  _check_sizes(config, data, batch_size, microbatches, mesh)
  _claim_folder(
    model_dir,
    config,
    data,
    {"batch_size": batch_size, "seed": seed, "microbatches": microbatches},
    config_text,
  )

  checkpoints = Checkpoints(model_dir, best_metric=model_folder.BEST_METRIC)
  make_state = functools.partial(initial_state, config, optimizer, seed=seed)
  shapes = jax.eval_shape(make_state)
  shardings = state_shardings(config, shapes, mesh)
  start = checkpoints.latest_step() or 0
  if start:
    state = checkpoints.restore(shapes, shardings)
  elif initial_params is None:
    state = jax.jit(make_state, out_shardings=shardings)()
  else:
    initial_params = jax.device_put(initial_params, shardings.params)
    state = jax.jit(
      lambda params: make_state(params=params), out_shardings=shardings
    )(initial_params)

  by_row = mesh_lib.batch_sharding(mesh)
  step_fn = jax.jit(
    functools.partial(
      train_step,
      config=config,
      optimizer=optimizer,
      microbatches=microbatches,
      z_loss=z_loss,
      loss_normalizing_factor=loss_normalizing_factor,
    ),
    donate_argnums=0,
    in_shardings=(shardings, by_row, None),
    out_shardings=(shardings, None),
  )
  key = jax.random.key(seed)
  log = MetricsLog(model_dir, resumed_step=start)
  bar = tqdm.tqdm(
    total=steps, initial=start, desc="train", unit="step", disable=None
  )
  clock = time.monotonic()
  values: dict[str, float] = {}
  waiting: tuple[int, Any] | None = None
  for step, batch in enumerate(
    prefetched_batches(
      data,
      start=start,
      stop=steps,
      batch_size=batch_size,
      seed=seed,
      sharding=by_row,
    ),
    start=start + 1,
  ):
    state, metrics = step_fn(state, batch, jax.random.fold_in(key, step))
    bar.update()
    # A step's numbers are read only after the next one is sent off, so that
    # the device never waits for the host.
    if waiting is not None:
      values = _read(*waiting)
      values["rows_per_second"] = (
        log_period * batch_size / (time.monotonic() - clock)
      )
      clock, waiting = time.monotonic(), None
      log.write(step - 1, values)
      bar.set_postfix(loss=f"{values['loss']:.3f}")
    if step % checkpoint_period == 0 or step == steps:
      values = _read(step, metrics)
      validation = dict(validate(state.params)) if validate else {}
      checkpoints.save(state, metrics=validation)
      values |= validation
      log.write(step, values)
      bar.write(_one_line(step, values))
      clock = time.monotonic()
    elif step % log_period == 0:
      waiting = step, metrics
  bar.close()
  log.close()
  checkpoints.close()
  return values


def _check_sizes(config, data, batch_size, microbatches, mesh) -> None:
  config.validate()
  model_folder.check_vocabulary(config, data.vocabulary)
  for parts, what in (
    (microbatches, "microbatches"),
    (mesh.shape["data"] * microbatches, "data devices x microbatches"),
  ):
    if batch_size % parts:
      raise InputError(
        f"a batch of {batch_size} rows cannot be split into {parts} "
        f"({what}): choose a multiple."
      )


def _claim_folder(
  model_dir: pathlib.Path,
  config: T5Config,
  data: PackedDataset,
  settings: dict[str, Any],
  config_text: str | None,
) -> None:
  """Writes what identifies the run, or checks that it is the same one."""
  run = {
    **settings,
    "data": storage.sha256_of(data.path / "manifest.json"),
    "config": config.to_json(),
  }
  path = model_dir / RUN_FILE
  if path.exists():
    earlier = storage.read_json(path)
    for name, value in run.items():
      if earlier.get(name) != value:
        raise InputError(
          f"{model_dir} holds a run with another {name}: train into another "
          "folder, or delete this one."
        )
    return
  model_dir.mkdir(parents=True, exist_ok=True)
  model_folder.save_config(model_dir, config)
  shutil.copyfile(
    data.vocabulary.path, model_dir / model_folder.VOCABULARY_FILE
  )
  if config_text is not None:
    (model_dir / "config.gin").write_text(config_text, encoding="utf-8")
  storage.write_json(path, run)


def _read(step: int, metrics: Mapping[str, jax.Array]) -> dict[str, float]:
  """Fetches a step's numbers; waits for the device."""
  values = {key: float(np.asarray(value)) for key, value in metrics.items()}
  if not math.isfinite(values["loss"]):
    raise InputError(
      f"the loss became {values['loss']} at step {step}: lower the learning "
      "rate; the last checkpoint is whole."
    )
  return values


def _one_line(step: int, values: Mapping[str, float]) -> str:
  shown = " ".join(
    f"{key.removeprefix('validation/')} {value:.4f}"
    for key, value in values.items()
    if key == "loss" or key.startswith("validation/")
  )
  return f"step {step}: {shown}"
