"""Options of the ranker `chat`, for the subcommands that evaluate."""

import argparse
import functools
from typing import Any


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares whom to ask, and what it may cost."""
  chat = parser.add_argument_group(
    "the ranker chat",
    "A chat model, asked about a sample once --rankers names it (all,chat). "
    "The key is in OPENAI_API_KEY; answers are kept in the dataset folder, so "
    "none is paid for twice.",
  )
  chat.add_argument("--chat-model", help="its name, such as gpt-4o-mini")
  chat.add_argument("--chat-base-url", help="of the server (default: OpenAI's)")
  chat.add_argument(
    "--chat-limit",
    type=int,
    default=500,
    metavar="N",
    help="requests of each scenario (default: the paper's %(default)s)",
  )
  chat.add_argument("--requests-per-minute", type=float, metavar="N")
  chat.add_argument("--tokens-per-minute", type=float, metavar="N")
  chat.add_argument(
    "--prices",
    type=float,
    nargs=2,
    metavar=("IN", "OUT"),
    help="dollars for a million tokens of prompts and of answers",
  )
  chat.add_argument("--max-usd", type=float, help="needs --prices")
  chat.add_argument("--max-requests", type=int, help="retries count")


def chat_options(args: argparse.Namespace) -> Any:
  """Returns `ChatOptions` for `evaluate`, or None without a chat model.

  Raises:
    InputError: a cap in dollars has no prices, a cap is negative, or nothing
      may be asked.
  """
  if not args.chat_model:
    return None
  from instructrec_jax.baselines.chat import ChatOptions
  from instructrec_jax.teacher import online
  from instructrec_jax.teacher.budget import Budget, Pace, Prices

  prices = Prices(*args.prices) if args.prices else None
  # The caps are of all scenarios together.
  answer = functools.partial(
    online.answer_all,
    budget=Budget(
      prices=prices, max_usd=args.max_usd, max_requests=args.max_requests
    ),
    pace=Pace(
      requests_per_minute=args.requests_per_minute,
      tokens_per_minute=args.tokens_per_minute,
    ),
    # A poor answer is an answer: asking again would flatter the model.
    limits=online.Limits(bad_answers=1),
    seed=args.seed,
  )
  return ChatOptions(
    model=args.chat_model,
    limit=args.chat_limit,
    prices=prices,
    send=lambda requests, store: answer(
      requests, store=store, client=online.make_client(args.chat_base_url)
    ),
  )
