"""The aspects of an instruction: preference, intention, task form.

The paper's section 2.1.1 and Figure 2. A combination is written
<preferences, intention, task form>, as in <P1,I0,T3>.
"""

import enum


class Preference(enum.StrEnum):
  """What an instruction shows of the user's lasting taste."""

  NONE = "P0"
  IMPLICIT = "P1"
  """The history of interactions."""
  EXPLICIT = "P2"
  """A description in words."""


class Query(enum.StrEnum):
  """What {query} is: an intention of now, vague or specific.

  The appendix lets a preference in words serve as a query too: its
  <P0,P2/I1/I2,T3>.
  """

  PREFERENCE = "P2"
  VAGUE = "I1"
  VAGUE_STAR = "I1*"
  """A paraphrase of the intention: the item's view of the review, not the
  user's (section 3.3.3). Templates do not name it: each form that shows `VAGUE`
  has another with this."""
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


class Response(enum.StrEnum):
  """What the model answers."""

  ITEM = "item"
  YES_NO = "yes_no"
  PREFERENCE = "preference"
  QUERY = "query"
  HISTORY = "history"
  QUERY_AND_ITEM = "query_and_item"
  HISTORY_AND_ITEM = "history_and_item"
  REASONED_ITEM = "reasoned_item"
  """The preference in words, then the item: reasoning before an answer."""

  @property
  def holds_preference(self) -> bool:
    """Whether the answer says what the user's taste is."""
    return self in (Response.PREFERENCE, Response.REASONED_ITEM)

  @property
  def holds_query(self) -> bool:
    """Whether the answer says what the user searches for."""
    return self in (Response.QUERY, Response.QUERY_AND_ITEM)

  @property
  def holds_history(self) -> bool:
    """Whether the answer lists what the user had before."""
    return self in (Response.HISTORY, Response.HISTORY_AND_ITEM)
