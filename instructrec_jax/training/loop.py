"""Instruction tuning (paper section 2.3.2): read `train` from top to bottom.

The step itself is in `step.py`, what it optimises in `losses.py`.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from instructrec_jax import checksums, locks, processes, storage
from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import lora_file, model_folder
from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_numbers,
  check_seed,
)
from instructrec_jax.progress import progress
from instructrec_jax.seq2seq import lora, stacking
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.packed_dataset import MANIFEST_FILE, PackedDataset
from instructrec_jax.training.batches import prefetched_batches, token_counts
from instructrec_jax.training.inputs import capacity_of_steps
from instructrec_jax.training.metrics_log import MetricsLog
from instructrec_jax.training.state import (
  initial_state,
  is_stacked,
  state_shapes,
  state_shardings,
)
from instructrec_jax.training.step import check_batch, jitted_step
from instructrec_jax.training.title_dropout import TitleDropout

RUN_FILE = "run.json"
CONFIG_FILE = "config.gin"
# What a folder may hold that has no run yet: one that was killed early.
_FIRST_FILES = {
  "packed",
  CONFIG_FILE,
  model_folder.CONFIG_FILE,
  model_folder.VOCABULARY_FILE,
  model_folder.TITLE_COUNTS_FILE,
  lora_file.FILE,
}
ARGUMENTS = (
  *("model_dir", "steps", "batch_size", "checkpoint_period", "log_period"),
  *("microbatches", "z_loss", "loss_normalizing_factor", "seed", "optimizer"),
  "zero",
)
"""Those of `train` that `check_arguments` takes."""


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
  title_dropout: float = 0.0,
  mesh: Mesh | None = None,
  zero: bool | str = False,
  initial_params: Any = None,
  make_params: Callable[[], Any] | None = None,
  base: lora_file.LoraSettings | None = None,
  validate: Callable[[Any], Mapping[str, float]] | None = None,
  config_text: str | None = None,
) -> dict[str, float]:
  """Trains to `steps`, or resumes the run that `model_dir` holds.

  A resumed run takes the very steps that an undisturbed one would: rows and
  dropout depend on the seed and the number of the step alone. With more `steps`
  than before, on one CPU device, a flat batch may have a larger capacity, and
  sums over it are rounded otherwise.

  Args:
    model_dir: where everything is written; see `checkpoints.model_folder`.
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
    title_dropout: the probability that a title of a history, or of a list of
      candidates, is left out; see `title_dropout.TitleDropout`.
    mesh: of `mesh.make_mesh`; one device if None.
    zero: "optimizer" splits the optimizer over the data axis too, True the
      parameters as well.
    initial_params: weights to start from; random if None. With the config's
      LoRA they are what is adapted, needed at each start.
    make_params: makes such weights, called where a run begins anew.
    base: says where they are, with LoRA; of `model_folder.base_of`.
    validate: from parameters to metrics; the checkpoint with the largest
      `model_folder.BEST_METRIC` is kept.
    config_text: what configured the run, to be kept as config.gin.

  Returns:
    The numbers of the last step, as in metrics.jsonl.

  Raises:
    InputError: `model_dir` holds another run, something does not fit, or the
      loss is no number.
  """
  model_dir = pathlib.Path(model_dir).absolute()
  mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
  check_arguments(
    model_dir=model_dir,
    optimizer=optimizer,
    zero=zero,
    steps=steps,
    batch_size=batch_size,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    microbatches=microbatches,
    z_loss=z_loss,
    loss_normalizing_factor=loss_normalizing_factor,
    seed=seed,
  )
  model_folder.check_vocabulary(config.validate(), data.vocabulary)
  check_batch(batch_size, mesh, microbatches)
  if batch_size > len(data):
    raise InputError(
      f"a batch of {batch_size} rows is larger than the data, which has "
      f"{len(data)}: name a smaller one."
    )
  if config.lora_rank and (initial_params is None or base is None):
    raise InputError(
      "LORA_RANK is bound, but no model to adapt: bind INITIAL_CHECKPOINT to "
      "its folder."
    )
  dropout = TitleDropout.of(data, rate=title_dropout, seed=seed)
  make_state = functools.partial(initial_state, config, optimizer, seed=seed)
  shapes = state_shapes(config, optimizer)
  shardings = state_shardings(
    config, optimizer, state=shapes, mesh=mesh, zero=zero
  )
  # On disk, layers are apart.
  unstacked = None
  laid_out = shardings
  if is_stacked(config, optimizer):
    unstacked = jax.jit(stacking.unstack_layers, out_shardings=shardings)
    laid_out = stacking.stack_layers(shardings, stacking.stack_shardings)
  by_row = mesh_lib.batch_sharding(mesh)

  settings: dict[str, Any] = dict(
    batch_size=batch_size,
    seed=seed,
    microbatches=microbatches,
    z_loss=z_loss,
    loss_normalizing_factor=loss_normalizing_factor,
    title_dropout=title_dropout,
  )
  if base is not None:
    settings["lora"] = dataclasses.asdict(base)
  with _lock(model_dir):
    run = _compared_run(model_dir, config, data, settings)
    is_new = not (model_dir / RUN_FILE).exists()
    # Nobody writes before all have compared.
    processes.wait("the run is the same")
    if is_new:
      _write_run(model_dir, config, data, run, config_text)
    checkpoints = Checkpoints(model_dir, best_metric=model_folder.BEST_METRIC)
    start = checkpoints.latest_step() or 0
    if not start and make_params is not None:
      initial_params = make_params()
    # A step donates its state; arrays on devices are the caller's.
    initial_params = jax.tree.map(
      lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf,
      initial_params,
    )
    if config.lora_rank:
      initial_params = mesh_lib.to_devices(
        lora.freeze(config, initial_params), shardings.frozen
      )
    elif initial_params is not None and not start:
      initial_params = mesh_lib.to_devices(initial_params, shardings.params)
    if start:
      state = checkpoints.restore(shapes, shardings)
      state = dataclasses.replace(
        state, frozen=initial_params if config.lora_rank else None
      )
    elif initial_params is None:
      state = jax.jit(make_state, out_shardings=shardings)()
    else:
      state = jax.jit(
        lambda params: make_state(params=params),
        out_shardings=shardings,
        donate_argnums=0,
      )(initial_params)
    del initial_params
    if unstacked:
      state = jax.jit(stacking.stack_layers, out_shardings=laid_out)(state)
    if not is_new:
      # Not before the checkpoint is known to be whole.
      _write_run(model_dir, config, data, run, config_text)

    capacity = None
    if config.loops_over_examples(mesh):
      counts = (
        token_counts(
          data, step, batch_size=batch_size, seed=seed, dropout=dropout
        )
        for step in range(steps)
      )
      capacity = capacity_of_steps(counts, microbatches)
    step_fn = jitted_step(
      config,
      optimizer,
      mesh=mesh,
      shardings=laid_out,
      zero=zero,
      seed=seed,
      microbatches=microbatches,
      z_loss=z_loss,
      loss_normalizing_factor=loss_normalizing_factor,
      capacity=capacity,
    )
    # Compiled ahead, so that no rate includes it and nothing compiles later.
    any_batch = jax.tree.map(
      lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype),
      data.batch(np.zeros(batch_size, int)),
    )
    step_fn = step_fn.lower(state, any_batch).compile()

    log = MetricsLog(model_dir, resumed_step=start)
    bar = progress(
      total=steps,
      initial=start,
      desc="train",
      unit="step",
      shown=processes.is_first(),
    )
    batches = prefetched_batches(
      data,
      start=start,
      stop=steps,
      batch_size=batch_size,
      seed=seed,
      sharding=by_row,
      dropout=dropout,
    )
    values = log.last
    began = time.monotonic() - values.get("seconds", 0.0)
    with contextlib.closing(checkpoints), contextlib.closing(log), bar:
      clock, logged = time.monotonic(), start
      for step, batch in enumerate(batches, start=start + 1):
        state, metrics = step_fn(state, batch)
        bar.update()
        saves = step % checkpoint_period == 0 or step == steps
        if step % log_period and not saves:
          continue

        # Only here does the host wait for the device.
        values = _read(step, metrics)
        now = time.monotonic()
        tokens = (step - logged) * values["target_tokens"]
        values["tokens_per_second"] = tokens / (now - clock)
        values["seconds"] = now - began
        if saves:
          validation = {}
          stored = unstacked(state) if unstacked else state
          if validate:
            model = lora.merged(config, stored.params, stored.frozen)
            validation = dict(validate(model))
          checkpoints.save(stored, metrics=validation)
          del stored
          values |= validation
          if processes.is_first():
            bar.write(_one_line(step, values), file=sys.stderr)
        log.write(step, values)
        bar.set_postfix_str(
          f"loss {values['loss']:.3f}, "
          f"{values['tokens_per_second']:.0f} target tokens/s",
          refresh=False,
        )
        clock, logged = time.monotonic(), step
    return values


def _lock(
  model_dir: pathlib.Path,
) -> contextlib.AbstractContextManager[None]:
  """Returns what holds the folder's lock, in the process that writes."""
  if processes.is_first():
    return locks.writing_in(model_dir)
  return contextlib.nullcontext()


def check_arguments(
  *,
  model_dir: pathlib.Path | str,
  optimizer: optax.GradientTransformation,
  zero: bool | str = False,
  z_loss: float = 0.0,
  loss_normalizing_factor: float | None = None,
  seed: int = 0,
  **counts: int,
) -> None:
  """Checks what `train` can refuse before there is any data.

  Raises:
    InputError: a value is of another type or out of range, or `model_dir` is a
      file.
  """
  if not isinstance(optimizer, optax.GradientTransformation):
    raise InputError(
      f"optimizer is {optimizer!r:.60}: @optimizer.adafactor() is one."
    )
  mesh_lib.check_zero(zero)
  if not isinstance(model_dir, pathlib.Path | str) or not str(model_dir):
    raise InputError(f"model_dir is {model_dir!r}: a folder is needed.")
  if pathlib.Path(model_dir).is_file():
    raise InputError(f"{model_dir}: it is a file: name a folder to train in.")
  check_counts(**counts)
  check_seed(seed)
  check_numbers(z_loss=z_loss)
  if loss_normalizing_factor is not None:
    check_numbers(least=1e-30, loss_normalizing_factor=loss_normalizing_factor)


def _compared_run(
  model_dir: pathlib.Path,
  config: T5Config,
  data: PackedDataset,
  settings: dict[str, Any],
) -> dict[str, Any]:
  """Returns what identifies the run; a folder has none or the same one."""
  run = {
    **settings,
    "data_sha256": storage.sha256_of(data.path / MANIFEST_FILE),
    **json.loads(config.to_json()),
  }
  path = model_dir / RUN_FILE
  model_folder.verify_run(model_dir)
  if path.exists():
    earlier = storage.read_json(path, dict)
    for name, value in run.items():
      # An earlier version may not have written it.
      if earlier.get(name, value) != value:
        raise InputError(
          f"{model_dir} holds a run whose {name} is {earlier.get(name)!r}, not "
          f"{value!r}: train into another folder, or delete this one."
        )
  elif model_dir.exists():
    names = {p.name for p in model_dir.iterdir() if not p.name.startswith(".")}
    if foreign := sorted(names - _FIRST_FILES):
      raise InputError(
        f"{model_dir} holds {foreign[0]}, and no run of `instructrec train`: "
        "train into another folder."
      )
  return run


def _write_run(
  model_dir: pathlib.Path,
  config: T5Config,
  data: PackedDataset,
  run: dict[str, Any],
  config_text: str | None,
) -> None:
  if processes.is_first():
    model_dir.mkdir(parents=True, exist_ok=True)
    # A kill in between leaves files without checksums, not with others'.
    (model_dir / checksums.FILE).unlink(missing_ok=True)
    model_folder.save_config(model_dir, config)
    files = [RUN_FILE, model_folder.CONFIG_FILE, model_folder.VOCABULARY_FILE]
    if config.lora_rank:
      storage.write_json(model_dir / lora_file.FILE, run["lora"])
      files.append(lora_file.FILE)
    shutil.copyfile(
      data.vocabulary.path, model_dir / model_folder.VOCABULARY_FILE
    )
    if data.title_counts:
      storage.write_json(
        model_dir / model_folder.TITLE_COUNTS_FILE, data.title_counts
      )
    if config_text is not None:
      (model_dir / CONFIG_FILE).write_text(config_text, encoding="utf-8")
    storage.write_json(model_dir / RUN_FILE, run)
    if data.title_counts:
      files.append(model_folder.TITLE_COUNTS_FILE)
    checksums.add(model_dir, files)
  processes.wait("the run is written")


def _read(step: int, metrics: Mapping[str, jax.Array]) -> dict[str, float]:
  """Fetches a step's numbers; waits for the device."""
  values = {key: float(np.asarray(value)) for key, value in metrics.items()}
  for name in ("loss", "grad_norm"):
    if not math.isfinite(values[name]):
      raise InputError(
        f"{name} became {values[name]} by step {step}: lower the learning "
        "rate; checkpoints of earlier steps are whole."
      )
  return values


def _one_line(step: int, values: Mapping[str, float]) -> str:
  shown = " ".join(
    f"{key.removeprefix('validation/')} {value:.4f}"
    for key, value in values.items()
    if key == "loss" or key.startswith("validation/")
  )
  return f"step {step}: {shown}"
