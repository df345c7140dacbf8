"""The evaluation protocols; see `instructions.scenarios`."""

from instructrec_jax.instructions.scenarios import (
  OF_MANY,
  OF_TEN,
  POINTWISE,
  SCENARIOS,
  Scenario,
  find_scenarios,
)

__all__ = [
  "OF_MANY",
  "OF_TEN",
  "POINTWISE",
  "SCENARIOS",
  "Scenario",
  "find_scenarios",
]
