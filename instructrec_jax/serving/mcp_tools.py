"""Tools of the Model Context Protocol: another program's assistant asks.

https://modelcontextprotocol.io: the assistant starts this server as a process
of its own and calls tools over its standard input and output.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

import instructrec_jax
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.conversation import Turn
from instructrec_jax.instructions.recommend import Recommendation
from instructrec_jax.serving import schemas
from instructrec_jax.serving.recommender import Recommender

Wish = Annotated[
  str,
  Field(
    max_length=schemas.MAX_TEXT_LENGTH, description="In the user's own words."
  ),
]
History = Annotated[
  list[schemas.Title],
  Field(
    max_length=schemas.MAX_HISTORY,
    description="Exact titles of what the user has, the oldest first.",
  ),
]


class RankedTitle(BaseModel):
  """A title, the best first."""

  title: str
  probability: float
  item_ids: list[str] = []


class Ranking(BaseModel):
  """Titles, and what was taken with reserve."""

  ranking: list[RankedTitle]
  unknown_history: list[str] = Field(
    description="Titles of the history that the catalogue does not have."
  )


class Reason(BaseModel):
  """A word of the wish, or a title of the history."""

  text: str
  times_likelier: float = Field(
    description="How many times likelier the title is with it; below 1: less."
  )


class Reasons(BaseModel):
  """What a title is found for, what weighs most first."""

  title: str
  against: str = Field(description="What it is compared with.")
  reasons: list[Reason]


def create_server(recommender: Recommender) -> MCPServer:
  """Returns a server of the tools; `run()` answers until its input ends."""
  server = MCPServer(
    "instructrec",
    version=instructrec_jax.__version__,
    instructions=(
      f"Finds items for what a user says, among {len(recommender.titles):,} "
      "titles. Pass the user's own words on; titles are exact, and "
      "search_catalogue finds them."
    ),
    log_level="WARNING",
  )

  def ranking(found: Recommendation) -> Ranking:
    had = found.composed.slots.history if recommender.titles else ()
    return Ranking(
      ranking=[
        RankedTitle(
          title=each.title,
          probability=each.probability,
          item_ids=[*each.item_ids],
        )
        for each in found.ranking
      ],
      unknown_history=[t for t in had if t not in recommender.index],
    )

  def recommend(
    wish: Wish = "",
    history: History = [],  # noqa: B006
    refused: Annotated[
      list[schemas.Title],
      Field(
        max_length=schemas.MAX_RECOMMENDED,
        description="Exact titles that must not come back.",
      ),
    ] = [],  # noqa: B006
    count: Annotated[int, Field(ge=1, le=schemas.MAX_RECOMMENDED)] = 10,
  ) -> Ranking:
    """Finds the best titles of the catalogue for a wish, a history, or both.

    Neither what is in the history nor what the user refused comes back. What
    the wish demands of a title's words ("only from Alder", "not in green")
    holds, unless no title would be left. A probability is that of the title as
    the model's answer.
    """
    turn = Turn(wish, refused=tuple(refused))
    found = recommender.converse([turn], history=history, k=count)
    return ranking(found.recommendation)

  def rank(
    titles: Annotated[
      list[schemas.Title],
      Field(min_length=1, max_length=schemas.MAX_DOCUMENTS),
    ],
    wish: Wish = "",
    history: History = [],  # noqa: B006
  ) -> Ranking:
    """Ranks given titles, which the catalogue need not have.

    A probability is a title's share among these.
    """
    return ranking(recommender.rank(wish, candidates=titles, history=history))

  def explain(
    title: schemas.Title,
    wish: Wish = "",
    history: History = [],  # noqa: B006
    against: Annotated[
      schemas.Title | None, Field(description="Default: the whole catalogue.")
    ] = None,
  ) -> Reasons:
    """Tells which words and titles a title of the catalogue is found for.

    Each was left out in turn, and all scored again: what the model's scores
    depend on, and not whether that is right.
    """
    found = recommender.explain(
      wish, history=history, title=title, against=against
    )
    return Reasons(
      title=found.title,
      against=found.against or "the catalogue",
      reasons=[
        Reason(
          text=each.text,
          # Beyond e^50 only that it is much.
          times_likelier=math.exp(max(-50, min(50, each.weight))),
        )
        for each in found.weights
      ],
    )

  def search_catalogue(
    words: Annotated[str, Field(max_length=schemas.MAX_TITLE_LENGTH)] = "",
    count: Annotated[int, Field(ge=1, le=100)] = 20,
  ) -> schemas.Items:
    """Finds titles of the catalogue that have all of some words."""
    titles = recommender.find(words)
    return schemas.Items(items=titles[:count], total=len(titles))

  of_catalogue = (recommend, explain, search_catalogue)
  for tool in (rank, *(of_catalogue if recommender.titles else ())):
    server.tool()(_sentences()(tool))
  return server


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
  """Tells the assistant what cannot be answered: others are failures."""
  try:
    yield
  except InputError as error:
    raise ToolError(str(error)) from None
