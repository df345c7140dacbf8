import functools
import json

import polars as pl
import pytest

from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.teacher import annotate, questions
from instructrec_jax.teacher.annotate import annotate_offline, annotate_with
from instructrec_jax.teacher.annotations import Annotations, open_store
from instructrec_jax.teacher.chat import ChatAnswer, Status
from instructrec_jax.teacher.exchange import (
  export_annotations,
  import_annotations,
)
from instructrec_jax.teacher.questions import chat_request, plan

USERS = 30


def _shop(path, *, users=USERS, seed=0):
  return prepare(
    format="synthetic", users=users, seed=seed, min_count=0, out=path
  )


@pytest.fixture
def folder(tmp_path):
  return _shop(tmp_path / "shop")


@pytest.fixture
def other(tmp_path):
  """The same shop, prepared a second time."""
  return _shop(tmp_path / "other")


def _answer(request) -> ChatAnswer:
  """What a model could say; different for every prompt."""
  mark = request.key[:8]
  if request.schema_name == "preference":
    fields = ("general", "long_term", "short_term")
    texts = {name: f"The user likes {mark} {name}." for name in fields}
  else:
    texts = {view: f"I want {mark}." for view in ("user_view", "item_view")}
  return ChatAnswer(request.key, Status.ANSWERED, text=json.dumps(texts))


class Transport:
  """Answers everything, and counts what it was asked."""

  def __init__(self, answer=_answer):
    self.sent = []
    self._answer = answer

  def __call__(self, requests, store):
    for request in requests:
      self.sent.append(request.key)
      store.put(request, self._answer(request), teacher="test")
    return len(self.sent)


def test_offline_teacher_answers_everything_once(folder):
  found = annotate_offline(folder.path)
  assert found["users"] == USERS and found["targets"] == 3 * USERS
  assert found["coverage"]["preferences"] == 1
  assert set(found["teachers"]) == {"offline offline-rules-3"}
  with open_store(folder) as store:
    before = list(store.rows())
    assert sum(store.count().values()) <= 6 * USERS
  assert annotate_offline(folder.path) == found
  with open_store(folder) as store:
    assert list(store.rows()) == before


def test_nothing_is_paid_for_twice(folder):
  first, second = Transport(), Transport()
  found = annotate_with(first, folder.path, model="m")
  assert len(first.sent) == len(set(first.sent)) > USERS
  assert annotate_with(second, folder.path, model="m")["tally"] == 0
  assert found["preferences"] == 3 * 3 * USERS


@pytest.mark.parametrize("change", ["model", "version", "parameters"])
def test_another_teacher_is_asked_anew_and_the_old_answers_stay(
  folder, change, monkeypatch
):
  annotate_with(Transport(), folder.path, model="m")
  with open_store(folder) as store:
    before = {row["key"]: row["answer"] for row in store.rows()}
  options = {"model": "m"}
  if change == "model":
    options["model"] = "n"
  elif change == "version":
    monkeypatch.setattr(questions, "VERSION", "2")
  else:
    options["parameters"] = {"temperature": 1.0}
  again = Transport()
  annotate_with(again, folder.path, **options)
  assert len(again.sent) == len(before)
  with open_store(folder) as store:
    after = {row["key"]: row["answer"] for row in store.rows()}
  assert len(after) == 2 * len(before)
  assert before.items() <= after.items()


def test_bad_answers_are_missing_and_never_filled(folder):
  def bad(request):
    status = Status.REFUSED
    if request.schema_name == "preference":
      status = Status.TRUNCATED
    return ChatAnswer(request.key, status, text='{"general": "The us')

  found = annotate_with(Transport(bad), folder.path, model="m")
  assert found["quality"]["preference.answer"] == {"truncated": 3 * USERS}
  assert found["quality"]["intention.answer"]["refused"] > 0
  annotations = Annotations.load(folder)
  assert annotations.preferences == {} and annotations.intentions == {}
  assert found["coverage"] == {"preferences": 0, "intentions": 0}


def test_a_preference_serves_no_target_within_its_history(folder):
  annotate_with(Transport(), folder.path, model="m")
  annotations = Annotations.load(folder)
  for user in range(USERS):
    end = int(folder.sequences.lengths[user]) - 3
    assert annotations.preference(user, before=end - 1) == (0, {})
    seen = set()
    for target in (end, end + 1, end + 2):
      found, texts = annotations.preference(user, before=target)
      # Each split's own, of the whole history before its target.
      assert found == target
      assert [*texts] == ["general", "long_term", "short_term"]
      seen.add(texts["general"])
    assert len(seen) == 3


def test_answers_of_a_version_that_asked_once_a_user_still_count(folder):
  """They were of the history before the first target, and are not lost."""
  sent = Transport()
  questions = plan(folder)
  first = {}
  for question in questions.preferences:
    first.setdefault(question.user, question)
  old = [*first.values(), *questions.intentions]
  with open_store(folder) as store:
    ask = functools.partial(
      chat_request, model="m", parameters=annotate.PARAMETERS
    )
    store.add_subjects(annotate._subject(q, ask(q)) for q in old)
    sent(map(ask, old), store)
  annotations = Annotations.load(folder)
  for user, question in first.items():
    for target in range(question.position, question.position + 3):
      end, texts = annotations.preference(user, before=target)
      assert end == question.position and len(texts) == 3
  # Only the questions of two more splits are open, and none is asked twice.
  again = Transport()
  annotate_with(again, folder.path, model="m")
  assert not set(again.sent) & set(sent.sent)
  assert len(again.sent) <= 2 * USERS


def test_intentions_that_name_their_target_are_set_aside(folder):
  titles = [item.title for item in folder.items]
  named = titles[int(folder.sequences.user(0)[-1])]

  def leak(request):
    if request.schema_name == "preference":
      return _answer(request)
    texts = {"user_view": f"I want {named} now", "item_view": "I want fun"}
    return ChatAnswer(request.key, Status.ANSWERED, text=json.dumps(texts))

  found = annotate_with(Transport(leak), folder.path, model="m")
  annotations = Annotations.load(folder)
  last = int(folder.sequences.lengths[0]) - 1
  assert annotations.intention(0, last, "user_view") is None
  assert annotations.intention(0, last, "item_view") == "I want fun"
  assert found["quality"]["intention.user_view"]["title_leak"] >= 1


def test_exported_annotations_serve_another_folder(folder, other, tmp_path):
  annotate_with(Transport(), folder.path, model="m")
  path = tmp_path / "annotations.parquet"
  rows = export_annotations(folder.path, path)
  assert rows == 6 * USERS
  taken = import_annotations(other.path, path)
  assert taken == {"rows": rows, "taken": rows, "elsewhere": 0}
  assert Annotations.load(other) == Annotations.load(folder)
  parts = _shop(tmp_path / "parts")
  for number, start in enumerate(range(0, rows, 20)):
    part = pl.read_parquet(path)[start : start + 20]
    part.write_parquet(tmp_path / f"part-{number}.parquet")
  assert import_annotations(parts.path, tmp_path / "part-*.parquet") == taken
  assert Annotations.load(parts) == Annotations.load(folder)
  # No key, no request.
  again = Transport()
  annotate_with(again, other.path, model="m")
  assert again.sent == []
  # Another shop has other users or items at these places.
  alien = _shop(tmp_path / "alien", users=5, seed=7)
  with pytest.raises(InputError, match=f"none of its {rows} annotations"):
    import_annotations(alien.path, path)


def _export(source, path, *, without_times) -> None:
  export_annotations(source.path, path)
  if without_times:
    # As an older version wrote it.
    pl.read_parquet(path).drop("answered_at").write_parquet(path)


@pytest.mark.parametrize("without_times", [False, True])
@pytest.mark.parametrize("rules_first", [False, True])
def test_the_later_of_two_teachers_counts_in_another_folder_too(
  folder, other, tmp_path, rules_first, without_times
):
  if rules_first:
    annotate_offline(folder.path)
  annotate_with(Transport(), folder.path, model="m")
  if not rules_first:
    annotate_offline(folder.path)
  path = tmp_path / "annotations.parquet"
  _export(folder, path, without_times=without_times)
  import_annotations(other.path, path)
  found = Annotations.load(other)
  own = Annotations.load(folder)
  assert found.preferences == own.preferences
  # Two targets with equal reviews share a model's answer and, without times,
  # the place in the file of the first.
  assert without_times or found == own
  for by_end in found.preferences.values():
    for texts in by_end.values():
      assert texts["general"].endswith(" general.") == rules_first


@pytest.mark.parametrize("without_times", [False, True])
def test_what_is_imported_counts_by_its_own_time(
  folder, other, tmp_path, without_times
):
  path = tmp_path / "annotations.parquet"
  if not without_times:
    annotate_offline(other.path)
  annotate_with(Transport(), folder.path, model="m")
  if without_times:
    annotate_offline(other.path)
  _export(other, path, without_times=without_times)
  before = Annotations.load(folder)
  import_annotations(folder.path, path)
  after = Annotations.load(folder)
  assert set(after.teachers) == {"test m", "offline offline-rules-3"}
  assert after.preferences == before.preferences
  assert after.intentions == before.intentions


def test_a_wrong_time_names_its_row(folder, tmp_path):
  annotate_offline(folder.path)
  path = tmp_path / "annotations.parquet"
  export_annotations(folder.path, path)
  wrong = pl.read_parquet(path).with_columns(answered_at=pl.lit("yesterday"))
  wrong.write_parquet(path)
  with pytest.raises(InputError, match="row 1: .*yesterday"):
    import_annotations(folder.path, path)


def test_what_cannot_be_exchanged_is_refused(folder, tmp_path):
  path = tmp_path / "a.parquet"
  with pytest.raises(InputError, match="no annotations to export"):
    export_annotations(folder.path, path)
  path.write_text("nonsense")
  with pytest.raises(InputError, match="not a Parquet file"):
    import_annotations(folder.path, path)
  folder.interactions.write_parquet(path)
  with pytest.raises(InputError, match="its columns must be"):
    import_annotations(folder.path, path)


def test_a_store_does_not_follow_to_other_data(folder, tmp_path):
  annotate_offline(folder.path)
  other = _shop(tmp_path / "alien", seed=9)
  (folder.path / "annotations.sqlite").rename(other.path / "annotations.sqlite")
  with pytest.raises(InputError, match="another dataset"):
    Annotations.load(other)
