"""Tests for instructrec_jax/serving/batcher.py."""

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.serving import batcher as batcher_module
from instructrec_jax.serving.batcher import Batcher, Overloaded


class HeldRanker:
  """Scores are lengths of candidates; waits for `go` in each call."""

  name = "held"

  def __init__(self, *, held: bool = False):
    self.go = threading.Event()
    self.begun = threading.Event()
    self.sizes: list[int] = []
    if not held:
      self.go.set()

  def score(self, requests):
    self.begun.set()
    assert self.go.wait(10)
    self.sizes.append(len(requests))
    for request in requests:
      if request.instruction == "refused":
        raise InputError("too long.")
      if request.instruction == "broken":
        raise RuntimeError("out of memory")
    return [np.array([len(c) for c in r.candidates]) for r in requests]


def request(number: int, instruction: str = "rank") -> RankingRequest:
  return RankingRequest(str(number), instruction, ("x" * number,))


def run(ranker, story, *, threads=1, **options):
  """Runs a story of a batcher, and closes it."""

  async def told():
    batcher = Batcher(ranker, threads=threads, **options)
    try:
      return await asyncio.wait_for(story(batcher), 20)
    finally:
      ranker.go.set()
      await asyncio.to_thread(batcher.close)

  return asyncio.run(told())


async def begun(ranker):
  assert await asyncio.to_thread(ranker.begun.wait, 10)


def test_what_waits_is_scored_together_and_each_gets_its_own():
  ranker, sizes = HeldRanker(held=True), []

  async def story(batcher):
    first = asyncio.create_task(batcher.score(request(1)))
    await begun(ranker)
    others = [
      asyncio.create_task(batcher.score(request(n))) for n in range(2, 12)
    ]
    await asyncio.sleep(0.05)
    ranker.go.set()
    return await asyncio.gather(first, *others)

  answers = run(ranker, story, max_batch=8, observe=sizes.append)
  assert [int(answer[0]) for answer in answers] == list(range(1, 12))
  assert ranker.sizes == sizes == [1, 8, 2]


def test_a_batch_has_so_many_candidates():
  ranker = HeldRanker(held=True)

  async def story(batcher):
    first = asyncio.create_task(batcher.score(request(1)))
    await begun(ranker)
    wide = RankingRequest("wide", "rank", ("x", "y", "z"))
    others = [asyncio.create_task(batcher.score(wide)) for _ in range(5)]
    await asyncio.sleep(0.05)
    ranker.go.set()
    await asyncio.gather(first, *others)

  run(ranker, story, max_candidates=5)
  assert ranker.sizes == [1, 2, 2, 1]


def test_a_refused_request_does_not_touch_its_neighbours():
  ranker = HeldRanker(held=True)

  async def story(batcher):
    first = asyncio.create_task(batcher.score(request(1)))
    await begun(ranker)
    tasks = [
      asyncio.create_task(batcher.score(request(2))),
      asyncio.create_task(batcher.score(request(3, "refused"))),
      asyncio.create_task(batcher.score(request(4))),
    ]
    await asyncio.sleep(0.05)
    ranker.go.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)

  two, refused, four = run(ranker, story)
  assert (two[0], four[0]) == (2, 4)
  assert isinstance(refused, InputError)


def test_a_failure_reaches_who_asked_and_the_thread_goes_on():
  async def story(batcher):
    with pytest.raises(RuntimeError, match="out of memory"):
      await batcher.score(request(1, "broken"))
    return await batcher.score(request(5))

  assert run(HeldRanker(), story)[0] == 5


def test_calls_have_the_device_for_themselves():
  async def story(batcher):
    thread = await batcher.call(threading.current_thread)
    with pytest.raises(ZeroDivisionError):
      await batcher.call(lambda: 1 // 0)
    return thread.name

  assert run(HeldRanker(), story) == "device-0"


def test_calls_keep_no_request_waiting():
  ranker, go = HeldRanker(), threading.Event()

  async def story(batcher):
    calls = []
    for _ in range(2):
      calls.append(asyncio.create_task(batcher.call(lambda: go.wait(10))))
      await asyncio.sleep(0.05)
    answer = await batcher.score(request(3))
    go.set()
    assert await asyncio.gather(*calls) == [True, True]
    return answer

  assert run(ranker, story, threads=2)[0] == 3


def test_a_second_batch_waits_to_be_as_large_as_the_first(monkeypatch):
  monkeypatch.setattr(batcher_module, "_BATCH_WAIT", 5)
  ranker = HeldRanker(held=True)

  async def story(batcher):
    first = [asyncio.create_task(batcher.score(request(1)))]
    await begun(ranker)
    # No smaller than the first one: it need not wait.
    first.append(asyncio.create_task(batcher.score(request(2))))
    await asyncio.sleep(0.05)
    waiting = [
      asyncio.create_task(batcher.score(request(n))) for n in range(3, 9)
    ]
    await asyncio.sleep(0.05)
    ranker.begun.clear()
    ranker.go.set()
    await asyncio.gather(*first)
    return await asyncio.gather(*waiting)

  answers = run(ranker, story, threads=2)
  assert [int(answer[0]) for answer in answers] == list(range(3, 9))
  assert sorted(ranker.sizes) == [1, 1, 6]


def test_a_second_batch_is_not_kept_from_a_long_first_one():
  ranker = HeldRanker(held=True)
  score = ranker.score
  ranker.score = lambda requests: (
    score(requests)
    if requests[0].instruction == "long"
    else [np.array([0])] * len(requests)
  )

  async def story(batcher):
    long = [
      asyncio.create_task(batcher.score(request(1, "long"))) for _ in "abc"
    ]
    await begun(ranker)
    await batcher.score(request(2))
    assert not any(task.done() for task in long)
    ranker.go.set()
    await asyncio.gather(*long)

  run(ranker, story, threads=2)


def test_a_wrong_number_of_answers_is_a_failure_and_the_thread_goes_on():
  ranker = HeldRanker()
  score = ranker.score
  ranker.score = lambda requests: (
    [] if requests[0].instruction == "broken" else score(requests)
  )

  async def story(batcher):
    with pytest.raises(ValueError):
      await batcher.score(request(1, "broken"))
    return await batcher.score(request(5))

  assert run(ranker, story)[0] == 5


def test_calls_are_one_at_a_time():
  calling = threading.Lock()

  def call():
    assert calling.acquire(blocking=False)
    threading.Event().wait(0.02)
    calling.release()

  async def story(batcher):
    await asyncio.gather(*(batcher.call(call) for _ in range(8)))

  run(HeldRanker(), story, threads=3)


def test_one_thread_scores_while_another_does():
  ranker = HeldRanker()
  together = threading.Barrier(2)
  ranker.score = lambda requests: [np.array([together.wait(10)])]

  async def story(batcher):
    return await asyncio.gather(*(batcher.score(request(1)) for _ in "ab"))

  answers = run(ranker, story, threads=2, max_batch=1)
  assert sorted(int(answer[0]) for answer in answers) == [0, 1]


def test_who_gives_up_is_not_scored():
  ranker = HeldRanker(held=True)

  async def story(batcher):
    first = asyncio.create_task(batcher.score(request(1)))
    await begun(ranker)
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(0.05):
        await batcher.score(request(2))
    ranker.go.set()
    await first
    await batcher.score(request(3))

  run(ranker, story)
  assert ranker.sizes == [1, 1]


def test_places_are_few_and_given_back():
  async def story(batcher):
    with batcher.slot(), batcher.slot():
      with pytest.raises(Overloaded), batcher.slot():
        pass
      assert batcher.waiting == 2
    with pytest.raises(KeyError), batcher.slot():
      raise KeyError
    assert batcher.waiting == 0

  run(HeldRanker(), story, max_waiting=2)


def test_closing_answers_what_was_asked():
  ranker = HeldRanker(held=True)

  async def story():
    batcher = Batcher(ranker)
    tasks = [asyncio.create_task(batcher.score(request(n))) for n in (1, 2, 3)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    ranker.go.set()
    await closing
    return [float((await task)[0]) for task in tasks]

  assert asyncio.run(story()) == [1, 2, 3]
