"""`import tasks` in a clone is `import instructrec_jax.tasks`."""

import instructrec_jax.tasks  # noqa: F401
