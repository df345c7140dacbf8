"""The scenarios: the evaluation protocols, as a table.

A scenario is a kind of instruction and a set of candidates. The paper writes
kinds as <preference, intention, task form>: <P1,I0,T3> ranks by the purchase
history alone (its Table 6).
"""

import dataclasses
from collections.abc import Sequence

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import Response

SEQUENCES = "sequences"
OF_TEN = ("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5")
OF_MANY = ("hr@1", "hr@3", "hr@5", "hr@10", "ndcg@3", "ndcg@5", "ndcg@10")
POINTWISE = ("auc", "log_loss", "ece")


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
  """One block of the results table.

  Attributes:
    name: how `--scenarios` calls it; its requests lie in a dataset folder's
      `requests/NAME_{validation,test}.parquet`.
    family: of the instructions, as in names of mixtures.
    candidates: which of a folder's candidates are ranked: "users" for the
      users' held-out items among negatives; "items" for items searched by
      their categories; "hard" for negatives that a matcher retrieved;
      "catalogue" for all items that the user does not have.
    tournament: rank in groups of ten, then the winners (paper Table 10).
    metrics: the table's columns, the one that decides between rankers first.
    crowd: the same requests in wordings that are held out from training; only
      `build --paraphrases` writes them.
  """

  name: str
  family: str
  candidates: str = "users"
  negatives: int = 9
  tournament: bool = False
  metrics: tuple[str, ...] = OF_TEN
  table: str = ""
  crowd: bool = False

  @property
  def label(self) -> str:
    """The paper's notation of the family."""
    if self.family == SEQUENCES:
      return "<P1,I0,T2>, titles alone"
    return f"<{','.join(self.family.upper().split('_'))}>"

  @property
  def lists_candidates(self) -> bool:
    """Whether instructions list all candidates, in their order."""
    return self.reranks and not self.tournament

  @property
  def reranks(self) -> bool:
    """Whether a prompt lists the candidates it ranks (T3)."""
    return self.family.endswith("_t3")

  @property
  def unlisted(self) -> "Scenario":
    """The same requests, asked without a list of the candidates (T2)."""
    return dataclasses.replace(self, family=self.family.replace("_t3", "_t2"))

  @property
  def shows(self) -> tuple[str, ...]:
    """What instructions show: of "history", "query" and "preference"."""
    if self.family == SEQUENCES:
      return ("history",)
    *aspects, _ = self.family.split("_")
    # Without an intention, a preference is what is asked for (paper, Table 1).
    asks = "i0" not in aspects
    is_query = asks and not {"i1", "i2"} & {*aspects}
    shown = {
      "history": "p1" in aspects,
      "query": asks,
      "preference": "p2" in aspects and not is_query,
    }
    return tuple(name for name, is_shown in shown.items() if is_shown)

  @property
  def history_alone(self) -> bool:
    """Whether instructions show the purchase history alone."""
    return self.family.startswith("p1_i0_") or self.family == SEQUENCES

  @property
  def pointwise(self) -> bool:
    """Whether a single item is judged: Yes or No."""
    return self.metrics == POINTWISE

  @property
  def needs_no_text(self) -> bool:
    """Whether candidate lists and histories alone make its requests."""
    return self.family.startswith("p1_i0_") and not (
      self.pointwise or self.crowd
    )


SCENARIOS = (
  Scenario("sequential", "p1_i0_t3", table="Table 6"),
  # The appendix has no <P2,I0,T3>; in Table 1 the preference is the query.
  Scenario("sequential_p2", "p0_p2_t3"),
  Scenario("sequential_p1_p2", "p1_p2_i0_t3"),
  Scenario("product_search_i1", "p0_i1_t3"),
  Scenario("product_search_i2", "p0_i2_t3", "items", table="Table 8"),
  Scenario("personalised_p2", "p1_p2_t3", table="Table 7"),
  Scenario("personalised_i1", "p1_i1_t3", table="Table 7"),
  Scenario("personalised_i2", "p1_i2_t3", table="Table 7"),
  # The appendix shows a preference in words beside the history, never alone.
  Scenario("personalised_p2_i1", "p1_p2_i1_t3"),
  Scenario("personalised_p2_i2", "p1_p2_i2_t3"),
  Scenario("pointwise", "p1_i0_t0", metrics=POINTWISE),
  Scenario("sequential_hard", "p1_i0_t3", "hard", table="Table 9"),
  # A hundred titles do not fit the encoder: matching (T2), or a tournament.
  Scenario("sequential_99", "p1_i0_t2", negatives=99, metrics=OF_MANY),
  Scenario("personalised_i1_99", "p1_i1_t2", negatives=99, metrics=OF_MANY),
  Scenario(
    "personalised_i1_tournament",
    "p1_i1_t3",
    negatives=99,
    tournament=True,
    metrics=OF_MANY,
    table="Table 10",
  ),
  Scenario(
    "sequential_full", "p1_i0_t2", "catalogue", negatives=0, metrics=OF_MANY
  ),
  # Of `build --sequences`: no words but the history's titles.
  Scenario(SEQUENCES, SEQUENCES),
  Scenario(
    "sequences_full", SEQUENCES, "catalogue", negatives=0, metrics=OF_MANY
  ),
)

CROWD = tuple(
  dataclasses.replace(
    scenario, name=f"{scenario.name}_crowd", table="", crowd=True
  )
  for scenario in SCENARIOS
  if scenario.lists_candidates
  and scenario.candidates != "hard"
  and "p2_i" not in scenario.family
)


@dataclasses.dataclass(frozen=True, slots=True)
class Writing:
  """A turned-around task: the model writes what others are asked with.

  Attributes:
    name: how `--scenarios` calls it.
    family: of the instructions, as in names of mixtures.
    response: what is written: a preference, a query or a history.
  """

  name: str
  family: str
  response: Response


WRITING = (
  Writing("preference_writing", "p1_p2_turn_around", Response.PREFERENCE),
  Writing("query_writing_i1", "p0_i1_turn_around", Response.QUERY),
  Writing("query_writing_i2", "p0_i2_turn_around", Response.QUERY),
  Writing("query_writing_p1_i1", "p1_i1_turn_around", Response.QUERY),
  Writing("history_writing_p2", "p1_p2_relatedness", Response.HISTORY),
  Writing("history_writing_i1", "p1_i1_relatedness", Response.HISTORY),
)
# All of them, in `--scenarios`.
ALL_WRITING = "writing"


def find_writing(names: Sequence[str]) -> tuple[list[Writing], list[str]]:
  """Returns the tasks of writing among names of scenarios, and the others."""
  tasks = [
    task for task in WRITING if task.name in names or ALL_WRITING in names
  ]
  known = {ALL_WRITING, *(task.name for task in WRITING)}
  return tasks, [name for name in names if name not in known]


def find_scenarios(
  names: Sequence[str], *, crowd: bool = False
) -> list[Scenario]:
  """Returns the named scenarios in the table's order; "all" means all.

  Those of a `crowd` are among all only if that is said; by name they are known.

  Raises:
    InputError: there is no scenario of such a name.
  """
  known = [scenario.name for scenario in (*SCENARIOS, *CROWD)]
  for name in names:
    if name not in ("all", *known):
      names = ", ".join(scenario.name for scenario in SCENARIOS)
      raise InputError(
        f"there is no scenario {name!r:.30}: name some of all, {names}, in a "
        f"crowd's words {CROWD[0].name} and the like, {ALL_WRITING}, or "
        f"{WRITING[0].name} and the like."
      )
  return [
    scenario
    for scenario in (*SCENARIOS, *CROWD)
    if scenario.name in names
    or ("all" in names and (crowd or not scenario.crowd))
  ]
