import dataclasses
import threading

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.budget import (
  Budget,
  Prices,
  estimate,
  most_tokens,
)
from instructrec_jax.teacher.chat import ChatRequest

REQUEST = ChatRequest(
  model="m",
  system="s" * 300,
  user="u" * 600,
  schema_name="n",
  schema={"properties": {}},
  parameters={"max_completion_tokens": 100},
  prompt_version="1",
)
PRICES = Prices(prompt=1.0, completion=10.0)


def test_an_estimate_is_on_the_high_side():
  prompt, completion = most_tokens(REQUEST)
  # OpenAI's tokenizers make about 900 / 4 tokens of 900 letters of English.
  assert 900 / 4 < prompt < 900 and completion == 100
  found = estimate([REQUEST, REQUEST], PRICES)
  assert found.requests == 2 and found.prompt_tokens == 2 * prompt
  assert found.usd == pytest.approx((2 * prompt + 2000) / 1e6)
  assert estimate([REQUEST]).usd is None


def test_caps_hold_when_many_threads_reserve():
  most = PRICES.usd(*most_tokens(REQUEST))
  budget = Budget(prices=PRICES, max_usd=100.5 * most, max_requests=10_000)
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


def test_settled_sends_make_room_again():
  most = PRICES.usd(*most_tokens(REQUEST))
  budget = Budget(prices=PRICES, max_usd=1.2 * most)
  assert budget.reserve(REQUEST) and not budget.reserve(REQUEST)
  budget.settle(REQUEST, 10, 1)
  assert budget.usd == pytest.approx(20 / 1e6)
  assert budget.reserve(REQUEST)


def test_a_send_without_a_bill_counts_in_full():
  most = PRICES.usd(*most_tokens(REQUEST))
  budget = Budget(prices=PRICES, max_usd=2.5 * most)
  for _ in range(2):
    assert budget.reserve(REQUEST)
    budget.forfeit(REQUEST)
  assert budget.usd == pytest.approx(2 * most)
  assert not budget.reserve(REQUEST)


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
  with pytest.raises(InputError, match="negative"):
    Budget(max_requests=-1)
