import asyncio
import dataclasses
import selectors
import threading

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.budget import (
  Budget,
  Pace,
  Prices,
  estimate,
  most_tokens,
)

from .samples import make_requests

REQUEST = dataclasses.replace(
  make_requests(1)[0],
  system="s" * 300,
  user="u" * 600,
  schema={"properties": {}},
  parameters={"max_completion_tokens": 100},
)
PRICES = Prices(prompt=1.0, completion=10.0)
MOST = PRICES.usd(*most_tokens(REQUEST))


def test_an_estimate_is_on_the_high_side():
  prompt, completion = most_tokens(REQUEST)
  # OpenAI's tokenizers make about 900 / 4 tokens of 900 letters of English.
  assert 900 / 4 < prompt < 900 and completion == 100
  found = estimate([REQUEST, REQUEST], PRICES)
  assert found.requests == 2 and found.prompt_tokens == 2 * prompt
  assert found.usd == pytest.approx((2 * prompt + 2000) / 1e6)
  # Less than half a cent.
  assert "at most 0.01 dollars" in estimate([REQUEST], PRICES).sentence
  assert estimate([REQUEST]).usd is None


def test_caps_hold_when_many_threads_reserve():
  budget = Budget(prices=PRICES, max_usd=100.5 * MOST, max_requests=10_000)
  allowed = []

  def reserve():
    while budget.reserve(REQUEST):
      allowed.append(1)

  threads = [threading.Thread(target=reserve) for _ in range(16)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(allowed) == budget.sends == 100


def test_settled_sends_free_their_reservation():
  budget = Budget(prices=PRICES, max_usd=1.2 * MOST)
  assert budget.reserve(REQUEST) and not budget.reserve(REQUEST)
  budget.settle(REQUEST, (10, 1))
  assert budget.usd == pytest.approx(20 / 1e6)
  assert budget.reserve(REQUEST)


def test_a_send_without_a_bill_counts_in_full():
  budget = Budget(prices=PRICES, max_usd=2.5 * MOST)
  for _ in range(2):
    assert budget.reserve(REQUEST)
    budget.settle(REQUEST, None)
  assert budget.usd == pytest.approx(2 * MOST)
  assert not budget.reserve(REQUEST)


def test_a_server_that_bills_more_has_more_reserved():
  prompt, completion = most_tokens(REQUEST)
  budget = Budget(prices=PRICES, max_usd=5 * MOST)
  assert budget.reserve(REQUEST)
  # A rejection shows nothing.
  budget.settle(REQUEST, (0, 0))
  assert not budget.is_tried
  assert budget.reserve(REQUEST)
  budget.settle(REQUEST, (3 * prompt, completion))
  assert budget.is_tried
  spent = (3 * prompt + 10 * completion) / 1e6
  while budget.reserve(REQUEST):
    spent += (3 * prompt + 10 * completion) / 1e6
  assert 2 < budget.sends < 5 and spent <= 5 * MOST


def test_requests_are_capped_without_prices():
  budget = Budget(max_requests=2)
  assert [budget.reserve(REQUEST) for _ in range(3)] == [True, True, False]


def test_an_answer_without_a_limit_counts_as_long():
  free = dataclasses.replace(REQUEST, parameters={})
  assert most_tokens(free)[1] == 512
  older = dataclasses.replace(REQUEST, parameters={"max_tokens": 9})
  assert most_tokens(older)[1] == 9


def test_letters_of_other_scripts_take_more_tokens():
  chinese = dataclasses.replace(REQUEST, user="好" * 600)
  assert most_tokens(chinese)[0] > most_tokens(REQUEST)[0] + 300


def test_wrong_caps_are_refused():
  with pytest.raises(InputError, match="needs --prices"):
    Budget(max_usd=1.0)
  with pytest.raises(InputError, match="at least"):
    Budget(max_requests=-1)
  with pytest.raises(InputError, match="at least"):
    Pace(tokens_per_minute=-1)


class _SimulatedTime(asyncio.SelectorEventLoop):
  """An event loop in which waiting takes no time, but the clock goes on."""

  def __init__(self):
    self.now = 0.0
    selector = selectors.DefaultSelector()
    select = selector.select

    def skip(timeout=None):
      # Real clocks never stand still: rounded timers rely on it.
      self.now += (timeout or 0.0) + 1e-6
      return select(0)

    selector.select = skip
    super().__init__(selector)

  def time(self) -> float:
    """Returns the simulated seconds."""
    return self.now


def _sent_at(count, *, tokens=(1,), workers=1, **rates) -> list[float]:
  """Returns when workers that do nothing but wait would send, in order."""
  pace, times, numbers = Pace(**rates), [], iter(range(count))
  with asyncio.Runner(loop_factory=_SimulatedTime) as runner:

    async def work():
      for number in numbers:
        await pace.wait(tokens[number % len(tokens)])
        times.append((runner.get_loop().time(), number))

    async def work_all():
      await asyncio.gather(*(work() for _ in range(workers)))

    runner.run(work_all())
  assert [number for _, number in times] == list(range(count))
  return [time for time, _ in times]


@pytest.mark.parametrize("workers", [1, 8])
def test_requests_keep_to_their_rate(workers):
  times = _sent_at(300, workers=workers, requests_per_minute=120)
  for start in times:
    # A second's allowance may have been saved up.
    assert sum(start <= t < start + 60 for t in times) <= 120 + 2
  assert 298 / 2 <= times[-1] < 300 / 2 + 1


@pytest.mark.parametrize("tokens", [(1000,), (100, 1900), (4000, 0, 0, 0)])
def test_tokens_keep_to_theirs_whatever_their_sizes(tokens):
  times = _sent_at(40, tokens=tokens, workers=4, tokens_per_minute=60_000)
  assert 36 <= times[-1] <= 40


def test_the_stricter_rate_counts():
  slow = _sent_at(
    30, tokens=(10,), requests_per_minute=60, tokens_per_minute=6e6
  )
  assert 28 <= slow[-1] <= 30


def test_workers_that_come_at_once_wait_behind_each_other():
  # Long requests are not overtaken, although each is more than a second's.
  times = _sent_at(4, tokens=(3000,), workers=4, tokens_per_minute=60_000)
  assert times == pytest.approx([2, 5, 8, 11], abs=1e-3)
  times = _sent_at(4, workers=4, requests_per_minute=60)
  assert times == pytest.approx([0, 1, 2, 3], abs=1e-3)


def test_a_pace_serves_one_run_after_another():
  pace = Pace(requests_per_minute=1e6, tokens_per_minute=1e6)
  for _ in range(2):
    pace.restart()
    asyncio.run(pace.wait(5))


def test_without_rates_nothing_waits():
  assert not Pace().is_limited
  assert _sent_at(1000)[-1] < 0.1
