"""What asking a chat model may cost, and the ranker `chat`.

Not a subcommand: options that `annotate`, `evaluate` and `reproduce` share.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

BaseUrl = Annotated[
  opt.Url, opt.Arg("the server's address (default: OpenAI's)")
]
# As `teacher.budget` has them, which takes time to import.
_Rate = Annotated[float, opt.Arg(least=0.001, most=1e9)]


@dataclass(frozen=True, kw_only=True)
class Caps:
  """Limits of a chat model's rate and price."""

  requests_per_minute: _Rate | None = None
  """requests that are sent in a minute"""
  tokens_per_minute: _Rate | None = None
  """tokens that are sent in a minute"""
  prices: Annotated[
    tuple[float, float] | None,
    opt.Arg(metavar=("IN", "OUT"), least=0, most=1e6),
  ] = None
  """dollars for a million tokens of prompts and of answers"""
  max_usd: Annotated[
    float | None, opt.Arg(metavar="USD", least=0, most=1e9)
  ] = None
  """stop before this is spent; needs --prices"""
  max_requests: opt.CountOrZero | None = None
  """stop after so many requests; retries count"""

  def __post_init__(self):
    """Raises InputError if a cap would not hold."""
    if self.max_usd is not None:
      self.budget()

  def paid_prices(self, *, share: float = 1.0) -> Any:
    """Returns a `share` of the `Prices`, or None if there are none."""
    from instructrec_jax.teacher.budget import Prices

    return self.prices and Prices(*(share * price for price in self.prices))

  def budget(self, *, share: float = 1.0) -> Any:
    """Returns the `Budget`, which pays a `share` of the prices."""
    from instructrec_jax.teacher.budget import Budget

    return Budget(
      prices=self.paid_prices(share=share),
      max_usd=self.max_usd,
      max_requests=self.max_requests,
    )

  def pace(self) -> Any:
    """Returns the `Pace` that requests are sent at."""
    from instructrec_jax.teacher.budget import Pace

    return Pace(
      requests_per_minute=self.requests_per_minute,
      tokens_per_minute=self.tokens_per_minute,
    )


@dataclass(frozen=True, kw_only=True)
class ChatRanker(Caps):
  """The ranker chat.

  A chat model, asked about a sample once --rankers names it (all,chat). The key
  is in OPENAI_API_KEY; answers are kept in the dataset folder, so none is paid
  for twice.
  """

  chat_model: str | None = None
  """its name, such as gpt-4o-mini"""
  chat_base_url: BaseUrl | None = None
  chat_limit: opt.Count = 500
  """requests of each scenario, the paper's 500"""

  def __post_init__(self):
    """Raises InputError if a limit is of no chat model."""
    super().__post_init__()
    for field in dataclasses.fields(self):
      if not self.chat_model and getattr(self, field.name) != field.default:
        raise InputError(
          f"--{field.name.replace('_', '-')} is of a chat model: add "
          "--chat-model."
        )

  def for_evaluate(self, seed: int) -> Any:
    """Returns `ChatOptions`, or None without a chat model."""
    if not self.chat_model:
      return None
    from instructrec_jax.baselines.chat import ChatOptions
    from instructrec_jax.teacher import online

    # One budget and one pace for all scenarios together.
    answer = functools.partial(
      online.answer_all,
      budget=self.budget(),
      pace=self.pace(),
      # A malformed answer counts: asking again would flatter the model.
      limits=online.Limits(bad_answers=1),
      seed=seed,
    )
    return ChatOptions(
      model=self.chat_model,
      limit=self.chat_limit,
      prices=self.paid_prices(),
      send=lambda requests, store: answer(
        requests, store=store, client=online.make_client(self.chat_base_url)
      ),
    )
