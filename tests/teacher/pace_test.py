import asyncio

from instructrec_jax.teacher.pace import Pace


class Clock:
  """Time that passes only by sleeping."""

  def __init__(self):
    self.now = 0.0

  def __call__(self) -> float:
    return self.now

  async def sleep(self, seconds: float) -> None:
    self.now += seconds


def _sent_at(count, *, tokens=1, **rates) -> list[float]:
  clock = Clock()
  pace = Pace(clock=clock, sleep=clock.sleep, **rates)
  times = []

  async def send():
    for _ in range(count):
      await pace.wait(tokens)
      times.append(clock.now)

  asyncio.run(send())
  return times


def test_requests_keep_to_their_rate():
  times = _sent_at(300, requests_per_minute=120)
  for start in range(len(times)):
    within = sum(times[start] <= t < times[start] + 60 for t in times)
    # A second's allowance may have been saved up.
    assert within <= 120 + 2
  assert times[-1] < 300 / 2 + 1


def test_tokens_keep_to_theirs():
  times = _sent_at(30, tokens=1000, tokens_per_minute=60_000)
  assert 28 <= times[-1] <= 30


def test_the_stricter_rate_counts():
  slow = _sent_at(30, tokens=10, requests_per_minute=60, tokens_per_minute=6e6)
  assert 28 <= slow[-1] <= 30


def test_without_rates_nothing_waits():
  assert set(_sent_at(1000)) == {0.0}
