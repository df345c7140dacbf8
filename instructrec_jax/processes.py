"""Multi-process (SPMD) runs: joining them, and which process writes.

All processes run the same program on the same inputs; jax shards the arrays
over all their devices. Only the first process writes files or prints.
"""

import os

import jax
from jax.experimental import multihost_utils

from instructrec_jax.errors import InputError

ADDRESS = "JAX_COORDINATOR_ADDRESS"
COUNT = "JAX_NUM_PROCESSES"
NUMBER = "JAX_PROCESS_ID"


def join() -> None:
  """Initialises jax.distributed; call it before any computation.

  On a TPU pod, under Slurm, Open MPI or Kubernetes, jax finds them itself.
  Elsewhere the environment names them: JAX_COORDINATOR_ADDRESS (host:port of
  the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).
  """
  given = [os.environ.get(name) for name in (ADDRESS, COUNT, NUMBER)]
  if any(given) and not all(given):
    raise InputError(
      f"to join other processes, set all of {ADDRESS}, {COUNT} and {NUMBER}, "
      "or none of them where jax finds the processes itself."
    )
  try:
    count, number = (int(text) if text else None for text in given[1:])
  except ValueError:
    raise InputError(f"{COUNT} and {NUMBER} must be whole numbers.") from None
  # For the CPU backend, which has no other collectives across processes.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(num_processes=count, process_id=number)
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f"the other processes are not found ({str(error).splitlines()[0]:.150}): "
      f"set {ADDRESS}, {COUNT} and {NUMBER}."
    ) from error


def is_first() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def wait(what: str) -> None:
  """Waits at the barrier of this name until all processes are there."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)
