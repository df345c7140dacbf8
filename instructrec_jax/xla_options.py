"""What XLA is told for the backend at hand."""

import jax


def compiler_options() -> dict[str, str] | None:
  """Returns `jax.jit`'s compiler options.

  On CPU, arrays are made as late as they can be: by default all are made
  early, for threads that then wait for memory. Scoring takes 2.5 times less
  memory and 5% less time so, a training step 8% less time.
  """
  if jax.default_backend() != "cpu":
    return None
  return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
