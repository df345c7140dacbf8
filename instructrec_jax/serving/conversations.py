"""Conversations that a server keeps, by their ids, in memory."""

import collections
import threading
import uuid
from collections.abc import Sequence

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.conversation import MAX_TURNS, Turn

# The one that was silent for longest is dropped for a new one.
MAX_CONVERSATIONS = 1000


class UnknownConversation(Exception):
  """There is none of this id, or no longer."""


class Conversations:
  """The turns of each conversation; thread-safe."""

  def __init__(self, *, most: int = MAX_CONVERSATIONS):
    """Keeps at most so many."""
    self._most = most
    self._turns: collections.OrderedDict[str, tuple[Turn, ...]] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def turns(self, name: str | None) -> tuple[Turn, ...]:
    """Returns what was said so far; nothing for a new one, without a name.

    Raises:
      UnknownConversation: there is none of this name.
      InputError: it has as many turns as one may have.
    """
    if name is None:
      return ()
    with self._lock:
      if name not in self._turns:
        raise UnknownConversation
      self._turns.move_to_end(name)
      turns = self._turns[name]
    if len(turns) >= MAX_TURNS:
      raise InputError(
        f"the conversation has {MAX_TURNS} turns, as many as one may have: "
        "begin another."
      )
    return turns

  def keep(self, name: str | None, turns: Sequence[Turn]) -> str:
    """Keeps turns, the last of which is new; returns their name.

    Raises:
      InputError: another turn has been answered meanwhile.
    """
    with self._lock:
      name = name or uuid.uuid4().hex
      if len(self._turns.get(name, ())) >= len(turns):
        raise InputError(
          "another turn of this conversation was answered meanwhile: say it "
          "again, after that one."
        )
      self._turns[name] = tuple(turns)
      self._turns.move_to_end(name)
      while len(self._turns) > self._most:
        self._turns.popitem(last=False)
    return name
