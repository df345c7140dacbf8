"""What is evaluated for which of the paper's tables, and what data lacks."""

import dataclasses
import pathlib
from collections.abc import Sequence

from instructrec_jax import storage
from instructrec_jax.evaluation.rankers import READERS, applies
from instructrec_jax.instructions.scenarios import SCENARIOS, Scenario
from instructrec_jax.reproduction import paper

# What `build` writes last. Its own name for it would import TensorFlow.
MANIFEST_FILE = "instructions.json"
# Figure 3: what each rung adds to the one before it.
LADDER = (
  "history <P1,I0>",
  "+ preference <P2,I0>",
  "+ product search <P0,I2>, <P0,P2>",
  "+ personalised search <P1,I2>, <P1,P2>",
  "+ vague intention* <P0,I1*>, <P1,I1*>",
)
HELD_OUT = "personalised_i1"
UNSEEN = "sequential"


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
  def chatted(self) -> bool:
    """Whether the paper asked a chat model about all of them."""
    return all(
      "chat" in paper.ranking(self.title, scenario.name)
      for scenario in self.scenarios
    )


def experiments(
  dataset: pathlib.Path, names: Sequence[str]
) -> list[Experiment]:
  """Returns the tables that evaluate rankers, and what the paper has not.

  Args:
    dataset: a built folder.
    names: of the rankers, as `evaluate` takes them.
  """
  groups: dict[str, list[Scenario]] = {}
  for scenario in SCENARIOS:
    group = scenario.table or "further scenarios"
    if scenario.candidates == "catalogue":
      group = "whole catalogue"
    groups.setdefault(group, []).append(scenario)
  found = []
  # The paper's tables, by their numbers, before all else.
  for title in sorted(groups, key=lambda t: (t[:5] != "Table", len(t), t)):
    scenarios = groups[title]
    lacking = {
      s.name: lack(dataset, s) or unranked(s, names) for s in scenarios
    }
    lacking = {name: reason for name, reason in lacking.items() if reason}
    found.append(
      Experiment(
        title.lower().replace(" ", "_"),
        title,
        tuple(s for s in scenarios if s.name not in lacking),
        lacking,
      )
    )
  return found


def lack(dataset: pathlib.Path, scenario: Scenario) -> str:
  """Returns why a built folder has no requests of a scenario, or nothing."""
  written = storage.read_json(dataset / MANIFEST_FILE)["requests"]
  name = f"{scenario.name}_test"
  found = written.get(name, written.get(scenario.name, "not written"))
  if isinstance(found, str):
    return found.removeprefix("not written: ")
  return "" if found["rows"] else f"no request shows what {scenario.label} does"


def unranked(scenario: Scenario, names: Sequence[str]) -> str:
  """Returns that none of the rankers ranks a scenario, or nothing."""
  if any(name == "all" or _ranks(name, scenario) for name in names):
    return ""
  return "none of --rankers ranks it"


def _ranks(name: str, scenario: Scenario) -> bool:
  if name == "chat":
    # Only what the paper asked one about.
    return "chat" in paper.ranking(scenario.table, scenario.name)
  if name in READERS and scenario.candidates == "catalogue":
    # Of thousands of titles, a model finds the top sooner than it scores all.
    return name in ("model", "catalogue")
  return applies(name, scenario)


def scenario(name: str) -> Scenario:
  """Returns a scenario by its name."""
  (found,) = [s for s in SCENARIOS if s.name == name]
  return found
