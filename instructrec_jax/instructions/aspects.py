"""The aspects of an instruction: preference, intention, task form.

The paper's section 2.1.1 and Figure 2. A combination is written
<preferences, intention, task form>, as in <P1,I0,T3>.
"""

import dataclasses
import enum


class Preference(enum.StrEnum):
  """What is known of the user's lasting taste."""

  NONE = "P0"
  IMPLICIT = "P1"
  """The history of interactions."""
  EXPLICIT = "P2"
  """A description in words."""


class Intention(enum.StrEnum):
  """What the user is after right now."""

  NONE = "I0"
  VAGUE = "I1"
  SPECIFIC = "I2"


class TaskForm(enum.StrEnum):
  """What the model is asked to do."""

  POINTWISE = "T0"
  PAIRWISE = "T1"
  MATCHING = "T2"
  RERANKING = "T3"


class Strategy(enum.StrEnum):
  """How a template adds diversity (paper section 2.2.2)."""

  PLAIN = "plain"
  TURN_AROUND = "turn-around"
  RELATEDNESS = "relatedness"
  CHAIN_OF_THOUGHT = "chain-of-thought"


@dataclasses.dataclass(frozen=True, slots=True)
class Aspects:
  """A template's place in the paper's scheme.

  Attributes:
    preferences: those that an instruction always shows.
    intention: the kind of intention, if any.
    task_form: the kind of task.
    optional: preferences that are shown where there is one: the paper's (P2).
  """

  preferences: tuple[Preference, ...]
  intention: Intention
  task_form: TaskForm
  optional: tuple[Preference, ...] = ()

  @property
  def label(self) -> str:
    """The paper's notation, such as <P1,(P2),I0,T3>."""
    optional = [f"({preference})" for preference in self.optional]
    parts = [*self.preferences, *optional, self.intention, self.task_form]
    return f"<{','.join(parts)}>"

  @property
  def family(self) -> str:
    """The combination without options, as names of mixtures: p1_i0_t3."""
    parts = [*self.preferences, self.intention, self.task_form]
    return "_".join(parts).lower()
