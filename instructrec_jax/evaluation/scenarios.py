"""The evaluation protocols, as a table.

A scenario is a kind of instruction and a number of candidates. The paper
writes kinds as <preference, intention, task form>: <P1,I0,T3> ranks by the
purchase history alone (its Table 6).
"""

import dataclasses
from collections.abc import Sequence

from instructrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
  """One block of the results table.

  Attributes:
    name: how `--scenarios` calls it; its requests lie in a dataset folder's
      `requests/NAME_{validation,test}.parquet`.
    aspects: the paper's label of the instructions.
    negatives: candidates a request beside the target.
    metrics: the table's columns, the one that decides between rankers first.
  """

  name: str
  aspects: str
  negatives: int
  metrics: tuple[str, ...] = ("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5")


SCENARIOS = (
  Scenario("sequential", "<P1,I0,T3>", 9),
  # A hundred titles do not fit the encoder: matching (T2), not reranking.
  Scenario(
    "sequential_99",
    "<P1,I0,T2>",
    99,
    ("hr@1", "hr@3", "hr@5", "hr@10", "ndcg@3", "ndcg@5", "ndcg@10"),
  ),
)


def find_scenarios(names: Sequence[str]) -> list[Scenario]:
  """Returns the named scenarios in the table's order; "all" means all.

  Raises:
    InputError: there is no scenario of such a name.
  """
  known = [scenario.name for scenario in SCENARIOS]
  for name in names:
    if name not in ("all", *known):
      raise InputError(
        f"there is no scenario {name!r}: name some of all, {', '.join(known)}."
      )
  return [s for s in SCENARIOS if s.name in names or "all" in names]
