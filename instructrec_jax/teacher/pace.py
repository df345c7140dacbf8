"""No more requests and tokens a minute than a vendor allows."""

import math
import time
from collections.abc import Callable

_SECONDS = 60.0


class Pace:
  """A token bucket each for requests and for tokens.

  A bucket holds what one second allows, or one request, so a run starts at
  its pace and not with a burst of a whole minute.
  """

  def __init__(
    self,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Sets the paces; None is as fast as it goes."""
    self._buckets = [
      _Bucket(rate / _SECONDS, clock) if rate else None
      for rate in (requests_per_minute, tokens_per_minute)
    ]

  def take(self, tokens: int) -> float:
    """Takes room for one more request.

    Args:
      tokens: of the request and its answer.

    Returns:
      The seconds to wait before it is sent; later requests wait behind it.
    """
    waits = [
      bucket.take(amount)
      for bucket, amount in zip(self._buckets, (1, tokens), strict=True)
      if bucket is not None
    ]
    return max(waits, default=0.0)


class _Bucket:
  """Fills at a rate; what is taken beyond its level is waited for."""

  def __init__(self, rate: float, clock: Callable[[], float]):
    self._rate, self._clock = rate, clock
    self._level, self._then = math.inf, clock()

  def take(self, amount: float) -> float:
    """Takes an amount at once; returns the seconds until it is covered."""
    now = self._clock()
    gained = (now - self._then) * self._rate
    # Where a request is more than a second allows, one may be saved up.
    full = max(self._rate, amount)
    self._level = min(full, self._level + gained) - amount
    self._then = now
    return max(0.0, -self._level / self._rate)
