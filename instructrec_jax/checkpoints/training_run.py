"""The checkpoints of a training run: saved asynchronously, and resumed.

A checkpoint has two items, so that scoring can load `params` without the
optimizer: checkpoints/STEP/{params,optimizer}. Orbax writes to a temporary
name and renames, so that a killed run leaves only finished steps. Checksums are
written before it renames; those of what orbax writes last, a time and a mark,
are added when the save is waited for, or when a killed run is resumed.
"""

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from instructrec_jax import checksums
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import InputError

# Orbax raises what it logs, as when a disk is full, pages of it.
logging.getLogger("absl").addFilter(
  lambda record: (
    record.levelno < logging.ERROR or "orbax" not in record.pathname
  )
)
_report = sys.unraisablehook


def _report_others(unraisable: Any) -> None:
  """Keeps quiet of the writes that a failed one has left without a loop.

  tensorstore reports each to Python once the disk is full; the failure itself
  is raised.
  """
  if str(unraisable.exc_value) != "Event loop is closed":
    _report(unraisable)


sys.unraisablehook = _report_others


class State(Protocol):
  """A dataclass with these fields, such as `training.state.TrainState`."""

  __dataclass_fields__: ClassVar[dict[str, Any]]
  step: jax.Array
  params: Any
  optimizer_state: Any


S = TypeVar("S", bound=State)

# Where orbax moves old checkpoints, so that a kill leaves none in part.
_DELETED = "deleted"
# Orbax writes them while it renames.
_WRITTEN_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")


class Checkpoints:
  """The checkpoints of one MODEL_DIR: the latest ones and the best."""

  def __init__(
    self, model_dir: pathlib.Path, *, best_metric: str, keep: int = 2
  ):
    """Opens a folder's checkpoints, to save or to resume.

    Args:
      model_dir: the run's folder.
      best_metric: of the metrics given to `save`; the checkpoint with the
        largest is kept.
      keep: how many of the latest are kept as well.
    """

    def rating(metrics: Mapping[str, float]) -> float:
      return metrics.get(best_metric, float("-inf"))

    best = preservation_policy.BestN(
      get_metric_fn=rating,
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    self._folder = pathlib.Path(model_dir).absolute() / model_folder.CHECKPOINTS
    self._step = 0
    # Orbax reads all steps' metrics to know the best.
    for folder in self._finished():
      with self._verified(folder, skip=("params/", "optimizer/")):
        pass
    self._tidy_up()
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # Without it orbax stores no metrics, and a resumed run would not know
        # the best.
        best_fn=rating,
        preservation_policy=preservation_policy.AnyPreservationPolicy(
          [preservation_policy.LatestN(keep), best]
        ),
        cleanup_tmp_directories=True,
        todelete_subdir=_DELETED,
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._write_checksums
        ),
      ),
      item_names=("params", "optimizer"),
    )

  def save(self, state: State, *, metrics: Mapping[str, float]) -> None:
    """Saves a state under its step; returns before it is on disk."""
    self._manager.wait_until_finished()
    self._tidy_up()
    self._step = int(state.step)
    self._manager.save(
      self._step,
      args=ocp.args.Composite(
        params=ocp.args.PyTreeSave(state.params),
        optimizer=ocp.args.PyTreeSave(state.optimizer_state),
      ),
      metrics=dict(metrics),
    )

  def latest_step(self) -> int | None:
    """Returns the last finished step, if there is one."""
    return self._manager.latest_step()

  def restore(self, state: S, shardings: S) -> S:
    """Returns the last finished state, placed as the shardings say.

    Args:
      state: arrays or shapes of what was saved.
      shardings: a tree like `state`.

    Raises:
      InputError: the checkpoint is damaged, or another optimizer's.
    """
    step = self._manager.latest_step()

    def arguments(tree: Any, shardings: Any) -> Any:
      return ocp.args.PyTreeRestore(
        item=tree,
        restore_args=jax.tree.map(
          lambda leaf, sharding: ocp.ArrayRestoreArgs(
            sharding=sharding, dtype=leaf.dtype
          ),
          tree,
          shardings,
        ),
      )

    try:
      with self._verified(self._folder / str(step)):
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            params=arguments(state.params, shardings.params),
            optimizer=arguments(
              state.optimizer_state, shardings.optimizer_state
            ),
          ),
        )
    except (ValueError, KeyError, OSError) as error:
      # Orbax's message is pages long; it stays in the traceback.
      raise InputError(
        f"{self._manager.directory / str(step)}: this checkpoint is damaged, "
        "or another optimizer's: train with that one, or delete the "
        "checkpoint to resume from an earlier one."
      ) from error
    return dataclasses.replace(
      state,
      step=jax.device_put(jax.numpy.int32(step), shardings.step),
      params=restored["params"],
      optimizer_state=restored["optimizer"],
    )

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._tidy_up()
    self._manager.close()

  def _verified(
    self, folder: pathlib.Path, *, skip: tuple[str, ...] = ()
  ) -> contextlib.AbstractContextManager[None]:
    """Verifies a checkpoint while the block reads it, in the first process."""
    if jax.process_index():
      return contextlib.nullcontext()
    remedy = f"restore it from a copy, or delete {folder} to resume from an "
    remedy += "earlier checkpoint"
    return checksums.verified(folder, remedy=remedy, skip=skip)

  def _write_checksums(self) -> None:
    """Called by orbax when all is written, before it renames the folder."""
    if jax.process_index() == 0:
      (partial,) = self._folder.glob(f"{self._step}.*")
      checksums.write(partial, skip=_WRITTEN_LAST)

  def _tidy_up(self) -> None:
    """Adds the last checksums, and deletes old checkpoints."""
    if jax.process_index():
      return
    shutil.rmtree(self._folder / _DELETED, ignore_errors=True)
    for folder in self._finished():
      if checksums.lack(folder, _WRITTEN_LAST):
        checksums.add(folder, _WRITTEN_LAST)

  def _finished(self) -> list[pathlib.Path]:
    folders = self._folder.iterdir() if self._folder.is_dir() else ()
    return [folder for folder in folders if folder.name.isdigit()]
