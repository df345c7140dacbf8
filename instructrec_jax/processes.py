"""Several processes as one program: they start together and write once.

All of them run the same code on the same inputs; jax splits the arrays over
all their devices. What goes to files or to the screen is the first one's.
"""

import os

import jax
from jax.experimental import multihost_utils

from instructrec_jax.errors import InputError

ADDRESS = "JAX_COORDINATOR_ADDRESS"
COUNT = "JAX_NUM_PROCESSES"
NUMBER = "JAX_PROCESS_ID"


def join() -> None:
  """Joins the other processes; must come before any computation.

  On a TPU pod, under Slurm, Open MPI or Kubernetes, jax finds them itself.
  Elsewhere the environment names them: JAX_COORDINATOR_ADDRESS (host:port of
  the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).

  Raises:
    InputError: the environment names them in part, or they are not found.
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
  # Of the CPU backend alone, which has no other way between processes.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(num_processes=count, process_id=number)
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f"the other processes are not found ({str(error).splitlines()[0]:.150}): "
      f"set {ADDRESS}, {COUNT} and {NUMBER}."
    ) from error


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def wait(what: str) -> None:
  """Returns when all processes have come here.

  Args:
    what: a name that all of them give.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)
