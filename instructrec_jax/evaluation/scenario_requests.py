"""A scenario's requests; see `instructions.requests`."""

from instructrec_jax.instructions.requests import ScenarioWriter, sample

__all__ = ["ScenarioWriter", "sample"]
