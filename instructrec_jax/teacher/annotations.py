"""The teacher's answers, as the instructions use them."""

import collections
import dataclasses
from typing import Any

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.storage import sha256_of
from instructrec_jax.teacher.quality import Quality, read_texts
from instructrec_jax.teacher.store import FILE, Store

PREFERENCES = ("general", "long_term", "short_term")
VIEWS = ("user_view", "item_view")


@dataclasses.dataclass(frozen=True)
class Annotations:
  """Usable texts of a dataset folder's store.

  Attributes:
    preferences: by user and by where the history ended that the teacher saw:
      the texts in the order of `PREFERENCES`, those set aside left out.
    intentions: by user and position: the texts by view.
    quality: how many texts of each field got each verdict.
    teachers: how many answers came from which teacher and model.
  """

  preferences: dict[int, dict[int, tuple[str, ...]]]
  intentions: dict[tuple[int, int], dict[str, str]]
  quality: dict[str, dict[str, int]]
  teachers: dict[str, int]

  @classmethod
  def none(cls) -> "Annotations":
    """What a folder has that was never annotated."""
    return cls({}, {}, {}, {})

  @classmethod
  def load(cls, folder: DatasetFolder) -> "Annotations":
    """Reads a folder's store; of two answers the later good one counts.

    Raises:
      InputError: the store is damaged, or belongs to another dataset.
    """
    path = folder.path / FILE
    if not path.exists():
      return cls.none()
    with open_store(folder) as store:
      return _collect(store, folder)

  def preference(
    self, user: int, *, before: int
  ) -> tuple[int, tuple[str, ...]]:
    """Returns the latest history's end before a target, and its texts.

    Args:
      user: user number.
      before: position of the target that they are to serve.
    """
    by_end = self.preferences.get(user, {})
    end = max((end for end in by_end if end <= before), default=0)
    return end, by_end.get(end, ())

  def intention(self, user: int, position: int, view: str) -> str | None:
    """Returns the text of one view of a target's review, if there is one."""
    return self.intentions.get((user, position), {}).get(view)

  def as_json(self) -> dict[str, Any]:
    """Returns counts for a manifest."""
    return {"quality": self.quality, "teachers": self.teachers}


def open_store(folder: DatasetFolder) -> Store:
  """Opens, or makes, the store of a dataset folder.

  Raises:
    InputError: the store is damaged, or belongs to another dataset.
  """
  return Store(
    folder.path / FILE, dataset=sha256_of(folder.path / "manifest.json")
  )


def _collect(store: Store, folder: DatasetFolder) -> Annotations:
  titles = [item.title for item in folder.items]
  preferences: dict[int, dict[int, tuple[str, ...]]] = collections.defaultdict(
    dict
  )
  intentions: dict[tuple[int, int], dict[str, str]] = {}
  quality = collections.defaultdict(collections.Counter)
  teachers = collections.Counter()
  for answer in store.answers():
    kind, user, position, _ = dataclasses.astuple(answer.subject)
    if kind not in ("preference", "intention"):
      continue
    target = ""
    if kind == "intention":
      target = titles[int(folder.sequences.user(user)[position])]
    judged = read_texts(
      kind, status=answer.status, text=answer.text, title=target
    )
    teachers[f"{answer.teacher} {answer.model}"] += 1
    for name, (verdict, _) in judged.items():
      quality[f"{kind}.{name}"][verdict.value] += 1
    usable = {n: t for n, (v, t) in judged.items() if v == Quality.OK}
    if not usable:
      continue
    if kind == "preference":
      texts = tuple(usable[name] for name in PREFERENCES if name in usable)
      preferences[user][position] = texts
    else:
      intentions[user, position] = usable
  return Annotations(
    dict(preferences),
    intentions,
    {name: dict(counts) for name, counts in sorted(quality.items())},
    dict(teachers),
  )
