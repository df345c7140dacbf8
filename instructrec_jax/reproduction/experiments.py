"""What is evaluated for which of the paper's tables, and what data lacks."""

import dataclasses
import pathlib
from collections.abc import Sequence

from instructrec_jax import paper, storage
from instructrec_jax.data.folder import BUILT, INSTRUCTIONS_FILE
from instructrec_jax.evaluation.rankers import READERS, applies
from instructrec_jax.instructions.scenarios import SCENARIOS, Scenario

# Figure 3: what each rung adds to the one before it.
LADDER = (
  "history <P1,I0>",
  "+ preference <P2,I0>",
  "+ product search <P0,I2>, <P0,P2>",
  "+ personalised search <P1,I2>, <P1,P2>",
  "+ vague intention* <P0,I1*>, <P1,I1*>",
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
# What Figure 3 holds out.
HELD_OUT = BY_NAME["personalised_i1"]
# Of validation, of Table 11, and of HR@1 by position and popularity.
SEQUENTIAL = BY_NAME["sequential"]
# Of whether there are rows to train on beside the instructions.
SEQUENCES = BY_NAME["sequences"]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Scenarios that are evaluated together.

  Attributes:
    name: of the step.
    title: the paper's table, or what these have in common.
    scenarios: those that the dataset has requests for, and some ranker ranks.
    lacking: why the others are not ranked, by name.
  """

  name: str
  title: str
  scenarios: tuple[Scenario, ...]
  lacking: dict[str, str]

  @property
  def asks_chat(self) -> bool:
    """Whether the paper asked a chat model about all of them."""
    return all(
      "chat" in paper.ranking(self.title, scenario.name)
      for scenario in self.scenarios
    )


def find_experiments(
  dataset: pathlib.Path, rankers: Sequence[str]
) -> list[Experiment]:
  """Returns the paper's tables by their numbers, then what it does not have.

  Args:
    dataset: a built folder.
    rankers: names, as `evaluate` takes them, with "chat" if one is asked.
  """
  groups: dict[str, list[Scenario]] = {}
  for scenario in SCENARIOS:
    group = scenario.table or "further scenarios"
    if scenario.candidates == "catalogue":
      group = "whole catalogue"
    groups.setdefault(group, []).append(scenario)
  found = []
  for title in sorted(groups, key=lambda t: (t[:5] != "Table", len(t), t)):
    reasons = {
      s: missing_data(dataset, s) or missing_ranker(s, rankers)
      for s in groups[title]
    }
    found.append(
      Experiment(
        title.lower().replace(" ", "_"),
        title,
        tuple(s for s, reason in reasons.items() if not reason),
        {s.name: reason for s, reason in reasons.items() if reason},
      )
    )
  return found


def missing_data(dataset: pathlib.Path, scenario: Scenario) -> str:
  """Returns why a built folder has no requests of a scenario, or ""."""
  written = storage.read_json(dataset / INSTRUCTIONS_FILE, BUILT)["requests"]
  name = f"{scenario.name}_test"
  found = written.get(name, written.get(scenario.name, "not written"))
  if isinstance(found, str):
    return found.removeprefix("not written: ")
  return "" if found["rows"] else f"no request shows what {scenario.label} does"


def missing_ranker(scenario: Scenario, rankers: Sequence[str]) -> str:
  """Returns that none of the rankers ranks a scenario, or ""."""
  if any(name == "all" or _ranks(name, scenario) for name in rankers):
    return ""
  return "none of --rankers ranks it"


def applicable(
  rankers: Sequence[str], scenarios: Sequence[Scenario]
) -> list[str]:
  """Returns the rankers that are for some of the scenarios, and "all"."""
  return [
    name
    for name in rankers
    if name == "all" or any(applies(name, scenario) for scenario in scenarios)
  ]


def _ranks(name: str, scenario: Scenario) -> bool:
  if name == "chat":
    # Only what the paper asked one about.
    return "chat" in paper.ranking(scenario.table, scenario.name)
  if name in READERS and scenario.candidates == "catalogue":
    # See `reproduce._rankers`: the catalogue is searched, not scored.
    return name in ("model", "catalogue")
  return applies(name, scenario)
