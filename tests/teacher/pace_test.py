from instructrec_jax.teacher.budget import Pace


def _sent_at(count, *, tokens=1, **rates) -> list[float]:
  """When a worker that does nothing but wait would send."""
  now = 0.0
  pace = Pace(clock=lambda: now, **rates)
  times = []
  for _ in range(count):
    now += pace.take(tokens)
    times.append(now)
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


def test_workers_that_come_at_once_wait_behind_each_other():
  pace = Pace(requests_per_minute=60, clock=lambda: 0.0)
  assert [pace.take(1) for _ in range(4)] == [0, 1, 2, 3]


def test_without_rates_nothing_waits():
  assert set(_sent_at(1000)) == {0.0}
