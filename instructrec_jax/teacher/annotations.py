"""The teacher's answers: checked text by text, for use in the instructions.

Nothing is ever replaced by filler: a text that fails a check is missing.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from instructrec_jax.data.folder import (
  ANNOTATIONS_FILE,
  MANIFEST_FILE,
  DatasetFolder,
)
from instructrec_jax.errors import InputError
from instructrec_jax.storage import sha256_of
from instructrec_jax.teacher.chat import Status
from instructrec_jax.teacher.quality import (
  MOST_REVIEWS,
  Quality,
  TitleWords,
  judge,
)
from instructrec_jax.teacher.questions import PREFERENCES
from instructrec_jax.teacher.store import MEMORY, Store


@dataclasses.dataclass(frozen=True)
class Annotations:
  """Usable texts of a dataset folder's store.

  Attributes:
    preferences: by user and by the end of the history that the teacher saw:
      the usable texts by name, in the order of `PREFERENCES`.
    intentions: by user and position: the texts by view.
    quality: how many texts of each field got each verdict.
    teachers: how many answers came from which teacher and model.
  """

  preferences: dict[int, dict[int, dict[str, str]]]
  intentions: dict[tuple[int, int], dict[str, str]]
  quality: dict[str, dict[str, int]]
  teachers: dict[str, int]

  @classmethod
  def none(cls) -> "Annotations":
    """Returns those of a folder that was never annotated."""
    return cls({}, {}, {}, {})

  @classmethod
  def load(cls, folder: DatasetFolder) -> "Annotations":
    """Reads a folder's store; of two usable answers the later one counts."""
    # A link to nothing is no lack of annotations, but a loss of them.
    if not os.path.lexists(folder.path / ANNOTATIONS_FILE):
      return cls.none()
    with open_store(folder) as store:
      return _collect(store, folder)

  def preference(self, user: int, *, before: int) -> tuple[int, dict[str, str]]:
    """Returns the latest end of a history before a target, and its texts.

    That is the target's own history, if the teacher was asked for its split.
    """
    by_end = self.preferences.get(user, {})
    end = max((end for end in by_end if end <= before), default=0)
    return end, by_end.get(end, {})

  def intention(self, user: int, position: int, view: str) -> str | None:
    """Returns the text of one view of a target's review, if there is one."""
    return self.intentions.get((user, position), {}).get(view)

  def as_json(self) -> dict[str, Any]:
    """Returns counts for a manifest."""
    return {"quality": self.quality, "teachers": self.teachers}


def open_store(
  folder: DatasetFolder, name: str = ANNOTATIONS_FILE, *, to_read: bool = False
) -> Store:
  """Opens a store of a dataset folder; makes it, unless it is only read.

  Raises:
    InputError: the store is damaged, or belongs to another dataset.
  """
  path = folder.path / name
  if to_read and not os.path.lexists(path):
    path = MEMORY
  return Store(path, dataset=sha256_of(folder.path / MANIFEST_FILE))


def _collect(store: Store, folder: DatasetFolder) -> Annotations:
  preferences = collections.defaultdict(dict)
  intentions: dict[tuple[int, int], dict[str, str]] = {}
  quality = collections.defaultdict(collections.Counter)
  teachers = collections.Counter()
  words = None
  rejected = {
    # As `review.judge_request` words it.
    (user, position, asked.rpartition("\nSentence: ")[2].partition("\n")[0])
    for user, position, asked in store.verdicts()
  }
  for row in store.rows("r.teacher, r.model, r.status, r.answer"):
    kind, user, position = row["kind"], row["user_number"], row["position"]
    if kind not in ("preference", "intention"):
      continue
    target = ""
    try:
      if kind == "intention":
        words = words or title_words(folder)
        target = folder.items[int(folder.sequences.user(user)[position])].title
      judged = read_texts(
        kind,
        status=Status(row["status"]),
        text=row["answer"],
        title=target,
        words=words,
      )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
      raise InputError(
        f"{store.path}: the {kind} of user {user} at {position} is damaged "
        f"({error}): restore the file from a copy."
      ) from None
    teachers[f"{row['teacher']} {row['model']}"] += 1
    for name, (verdict, line) in judged.items():
      if (user, position, line) in rejected:
        verdict = Quality.JUDGED_NO
        judged[name] = verdict, line
      quality[f"{kind}.{name}"][verdict.value] += 1
    usable = {n: t for n, (v, t) in judged.items() if v == Quality.OK}
    if not usable:
      continue
    if kind == "preference":
      preferences[user][position] = {
        name: usable[name] for name in PREFERENCES if name in usable
      }
    else:
      intentions[user, position] = usable
  return Annotations(
    dict(preferences),
    intentions,
    {name: dict(counts) for name, counts in sorted(quality.items())},
    dict(teachers),
  )


def title_words(folder: DatasetFolder) -> TitleWords:
  """Returns what a folder's reviews tell of the words of its titles."""
  texts = (frame["text"].drop_nulls() for frame in folder.reviews())
  step = max(1, sum(map(len, texts)) // MOST_REVIEWS)
  chosen, place = [], 0
  for frame in folder.reviews():
    texts = frame["text"].drop_nulls()
    chosen += texts[-place % step :: step].to_list()
    place += len(texts)
  return TitleWords(folder.items, chosen)


def read_texts(
  kind: str,
  *,
  status: Status,
  text: str,
  title: str = "",
  words: TitleWords | None = None,
) -> dict[str, tuple[Quality, str]]:
  """Checks each text of a raw answer; see `quality.judge`.

  Returns:
    By field: the verdict and the text, as one line. An answer that gives no
    texts has its verdict under "answer".
  """
  if status != Status.ANSWERED:
    return {"answer": (Quality(status.value), "")}
  fields: Mapping[str, str] = json.loads(text)
  judged = {}
  for name, value in fields.items():
    line = " ".join(value.split())
    judged[name] = (judge(kind, line, title=title, words=words), line)
  return judged
