"""Schemas of requests and answers over HTTP.

`/v1/rerank` and `/v2/rerank` have the forms that rerank clients send (Cohere's
and Jina's); fields of theirs that have no meaning here are ignored. Class names
and docstrings appear in /openapi.json.
"""

from typing import Annotated, Any, Literal

from pydantic import (
  AliasChoices,
  BaseModel,
  ConfigDict,
  Field,
  model_validator,
)
from pydantic_core import PydanticCustomError

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.conversation import MAX_TURNS

MAX_DOCUMENTS = 1000
MAX_EXPLAINED = 100
MAX_RECOMMENDED = 100
MAX_HISTORY = 200
MAX_TITLE_LENGTH = 500
MAX_TEXT_LENGTH = 4000
# Of what may be cut; the body as a whole is bounded too.
MAX_CUT_LENGTH = 100_000

_SAID: dict[str, Any] = {
  "query": "I want something scary for tonight",
  "history": ["Resident Evil 4", "Silent Hill 2"],
}
_EXAMPLE: dict[str, Any] = {
  **_SAID,
  "documents": ["FIFA 15", "The Evil Within", "Tetris"],
}

Title = Annotated[str, Field(max_length=MAX_TITLE_LENGTH)]
Words = Annotated[str, Field(max_length=MAX_TEXT_LENGTH)]


class Text(BaseModel):
  """A document as an object; its other fields are ignored."""

  text: Title


class Fields(BaseModel):
  """A document as an object: its `text`, or those that `rank_fields` names."""

  model_config = ConfigDict(extra="allow")

  text: str | None = None


class UserInput(BaseModel):
  """What a user says, and the titles that the user has bought."""

  # Neither "3" nor true is taken for a number.
  model_config = ConfigDict(strict=True)

  query: Words = Field("", description="The user's own words.")
  history: list[Title] = Field(
    default_factory=list,
    max_length=MAX_HISTORY,
    description="Titles of the user's items, oldest first.",
  )
  preference: Words | None = Field(None, description="The lasting taste.")
  context: Words | None = Field(None, description="Where, when or what for.")
  kind: Literal["auto", "preference", "vague", "specific"] = Field(
    "auto", description="Of the words; auto: by rules."
  )
  template: Annotated[str, Field(max_length=100)] | None = Field(
    None, description="A template's name, instead of the first that fits."
  )


_REASON = Field(
  False,
  description="Whether the model is to tell the user's taste first, and to "
  "rank by what is likely behind its own words, which the answer has.",
)


class RerankRequest(UserInput):
  """The form of rerank clients, with all of a user's input."""

  model_config = ConfigDict(
    json_schema_extra={"examples": [{**_EXAMPLE, "top_n": 2}]}
  )

  query: Annotated[str, Field(max_length=MAX_CUT_LENGTH)] = Field(
    "", description="The user's own words."
  )
  reason: bool = _REASON
  model: str | None = Field(None, description="Ignored: one is served.")
  documents: Annotated[
    list[Annotated[str, Field(max_length=MAX_CUT_LENGTH)] | Fields],
    Field(
      min_length=1,
      max_length=MAX_DOCUMENTS,
      description="Titles. The same one twice has the same score twice; an "
      "empty one is the last, with a score of 0.",
    ),
  ]
  rank_fields: list[str] | None = Field(
    None, description="Fields of documents that are objects (default: text)."
  )
  top_n: Annotated[int, Field(ge=1)] | None = None
  return_documents: bool | None = None
  truncate: bool | None = Field(
    None,
    validation_alias=AliasChoices("truncate", "truncation"),
    description="Whether texts that are too long are cut, and not refused "
    "(default: what the server was started with).",
  )
  max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(
    None, description="Documents are cut to as many tokens."
  )

  def texts(self) -> list[str]:
    """Returns the documents' texts.

    Raises:
      InputError: an object has none.
    """
    found = []
    for number, document in enumerate(self.documents):
      if isinstance(document, str):
        found.append(document)
      elif self.rank_fields:
        values = (document.model_dump().get(f) for f in self.rank_fields)
        found.append(", ".join(str(value) for value in values if value))
      elif document.text is None:
        raise InputError(
          f"documents[{number}] has no text: name the fields to read in "
          "rank_fields."
        )
      else:
        found.append(document.text)
    return found


class _Ours(BaseModel):
  # Or a misspelt field would have no effect, without a word.
  model_config = ConfigDict(strict=True, extra="forbid")

  @model_validator(mode="before")
  @classmethod
  def _check_names(cls, data: Any) -> Any:
    names = set(data) if isinstance(data, dict) else set()
    if unknown := sorted(names - cls.model_fields.keys()):
      raise PydanticCustomError(
        "extra_forbidden",
        "There is no field {unknown}; there are {known}",
        {
          # Cut: it is the client's, of any length.
          "unknown": f"{unknown[0]:.80}",
          "known": ", ".join(cls.model_fields),
        },
      )
    return data


class _OurRequest(UserInput, _Ours):
  pass


class RecommendRequest(_OurRequest):
  """Asks for the best of the whole catalogue."""

  model_config = ConfigDict(
    json_schema_extra={"examples": [{**_SAID, "top_n": 5}]}
  )

  reason: bool = _REASON
  top_n: Annotated[int, Field(ge=1, le=MAX_RECOMMENDED)] = 10


_Titles = Annotated[list[Title], Field(max_length=MAX_RECOMMENDED)]


class Turn(_Ours):
  """An earlier turn: what was said, and the titles that were answered."""

  query: Words = ""
  refused: _Titles = Field(default_factory=list)
  chosen: _Titles = Field(default_factory=list)
  shown: _Titles = Field(default_factory=list, description="The best first.")


class ChatRequest(_OurRequest):
  """Asks for an answer to the next turn of a conversation.

  `query` is what the user says now: a wish, or a correction such as "not from
  that brand", "more like the second" or "in green". What was said before is
  known by the conversation's id, or is told in `turns`: then the server has
  nothing to remember, and any of several may answer.
  """

  model_config = ConfigDict(
    json_schema_extra={
      "examples": [{"query": "In green, please.", "conversation": "5c0e9f"}]
    }
  )

  conversation: Annotated[str, Field(max_length=64)] | None = Field(
    None, description="Of an earlier answer; none: a new conversation."
  )
  turns: Annotated[list[Turn], Field(max_length=MAX_TURNS - 1)] | None = Field(
    None, description="All that was said before, the oldest first."
  )
  refused: _Titles = Field(
    default_factory=list, description="Titles that must not come back."
  )
  chosen: _Titles = Field(
    default_factory=list, description="Titles that the user takes."
  )
  top_n: Annotated[int, Field(ge=1, le=MAX_RECOMMENDED)] = 10


class ExplainRequest(_OurRequest):
  """Asks for a ranking and the words that a title is found for.

  Without documents the best of the catalogue are ranked. `title` is the one to
  explain, the best if it is left out; `against` the one to compare it with, the
  whole catalogue if that is left out.
  """

  model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

  # Few: all are ranked again for each word that is left out.
  documents: Annotated[list[Title | Text], Field(max_length=MAX_EXPLAINED)] = (
    Field(default_factory=list)
  )
  title: Title | None = None
  against: Title | None = None
  words: Annotated[int, Field(ge=1, le=50)] = 8


class InstructionRequest(_OurRequest):
  """Asks for the model instruction alone."""

  model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

  documents: Annotated[list[Title | Text], Field(max_length=MAX_DOCUMENTS)] = (
    Field(default_factory=list)
  )


class Document(BaseModel):
  """A document as it was given, or a title of the catalogue."""

  text: str
  image: str | None = Field(
    default=None,
    description="Its picture's address, of a server with --images.",
  )


class Result(BaseModel):
  """A ranked document.

  `relevance_score` is the probability among the documents that were ranked,
  or, of a catalogue, that the model gives this very title as its answer; how
  many are returned changes neither. An empty document has no log-likelihood.
  """

  index: int
  relevance_score: float
  log_likelihood: float | None = None
  document: Document | None = None


class Instruction(BaseModel):
  """The model instruction, and how it was composed."""

  instruction: str
  template: str
  aspects: str
  operations: list[str]
  items_dropped: int
  replaced: str
  unknown_history: list[str] = Field(
    default_factory=list,
    description="Titles of the history that the catalogue, if there is one, "
    "does not have: the model reads them as they are.",
  )


class ApiVersion(BaseModel):
  """The version of the form."""

  version: str


class Meta(BaseModel):
  """Fields that Cohere's clients expect beside the results."""

  api_version: ApiVersion
  warnings: list[str] | None = Field(None, description="What was cut.")


class Usage(BaseModel):
  """Token counts, which Jina's clients expect beside the results."""

  total_tokens: int
  prompt_tokens: int


class RankingAnswer(Instruction):
  """A ranking, the best first."""

  reasoning: str | None = Field(
    None, description="The user's taste in the model's own words, if asked for."
  )
  id: str
  model: str
  unknown_documents: int | None = Field(
    default=None,
    description="Of rerank: how many documents the catalogue, if there is one, "
    "does not have. The model has learned nothing of these.",
  )
  results: list[Result]
  meta: Meta
  usage: Usage


class ChatAnswer(RankingAnswer):
  """A ranking for the last turn, and what the conversation has come to.

  No title of `refused` or `chosen` comes back. `required` and `denied` are the
  words that titles must and must not have, `given_up` those of them that no
  title was left for. `scarce` are words of the wish that only some of the
  titles shown have, and no other that may be: those of `near` lack one.
  `unread` is what was said last, if no rule reads it and no title has a word
  of it: what it comes to is the model's alone.
  """

  conversation: str | None = Field(
    None, description="Its id, unless the turns were told."
  )
  turn: int
  wish: str = Field(
    description="What all turns have come to, as the model reads it."
  )
  required: list[list[str]]
  denied: list[str]
  refused: list[str]
  chosen: list[str]
  unread: str
  given_up: list[str]
  scarce: list[str]
  near: list[str]


class WordWeight(BaseModel):
  """Log-odds, in nats, that a title loses without the word."""

  slot: str
  text: str
  weight: float


class Deletion(BaseModel):
  """Log-odds, in nats, that the title loses without several words at once.

  `named`: without those of `weights` that speak for it; `others`: without as
  many others, null if there are none.
  """

  named: float
  others: float | None


class Explanation(Instruction):
  """A ranking, and the words that weigh most, either way, for a title of it."""

  results: list[Result]
  title: str
  against: str | None
  weights: list[WordWeight]
  deletion: Deletion | None


class Items(BaseModel):
  """Titles of the catalogue, and how many there are to find in all."""

  items: list[str]
  total: int


class Examples(BaseModel):
  """Wishes whose best answers have what was wished for in their titles."""

  wishes: list[str]
  history: list[str] = Field(description="Titles of the catalogue.")


class ServedModel(BaseModel):
  """A model, in the form of OpenAI's clients."""

  id: str
  object: Literal["model"] = "model"
  created: int = Field(description="When it was loaded, in seconds of Unix.")
  owned_by: Literal["instructrec_jax"] = "instructrec_jax"
  catalogue: int = Field(description="Titles to recommend from.")


class Models(BaseModel):
  """The one model that is served."""

  object: Literal["list"] = "list"
  data: list[ServedModel]


class Health(BaseModel):
  """The state of the server, and what it serves."""

  status: Literal["ok"]
  model: str
  catalogue: int


class Problem(BaseModel):
  """An error, in one sentence."""

  message: str
