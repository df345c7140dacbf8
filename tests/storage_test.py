"""Tests for instructrec_jax/storage.py."""

import errno
import os
import pathlib

import pytest

from instructrec_jax import locks, storage
from instructrec_jax.errors import InputError
from instructrec_jax.storage import output_file, staged_file, staged_folder


def _write(out, name="a", *, force=False, made_by="pack", **options):
  with staged_folder(out, force=force, made_by=made_by, **options) as partial:
    (partial / name).write_text(name)


def _names(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
  out = tmp_path / "out"
  _write(out)
  with pytest.raises(InputError, match="pass --force"):
    _write(out, "b")
  with (
    pytest.raises(RuntimeError),
    staged_folder(out, force=True, made_by="pack") as partial,
  ):
    (partial / "b").write_text("2")
    raise RuntimeError
  assert _names(tmp_path) == ["out", "out/.instructrec.json", "out/a"]
  _write(out, "b", force=True)
  assert _names(tmp_path) == ["out", "out/.instructrec.json", "out/b"]


def test_force_replaces_only_what_the_same_command_made(tmp_path):
  out = tmp_path / "out"
  _write(out)
  with pytest.raises(InputError, match="was not made by `instructrec export`"):
    _write(out, force=True, made_by="export")
  (out / "deep").mkdir()
  (out / "deep" / "notes").write_text("mine")
  with pytest.raises(InputError, match="holds deep/notes"):
    _write(out, force=True)
  foreign = tmp_path / "foreign"
  foreign.mkdir()
  (foreign / "notes").write_text("mine")
  with pytest.raises(InputError, match="was not made by"):
    _write(foreign, force=True)
  assert (foreign / "notes").read_text() == "mine"
  (foreign / "notes").unlink()
  _write(foreign, force=True)
  assert (foreign / "a").exists()


@pytest.mark.parametrize("force", [False, True])
def test_what_is_read_and_links_are_not_replaced(force, tmp_path):
  out = tmp_path / "out"
  _write(out)
  for source in (out, out / "a"):
    with pytest.raises(InputError, match="which is read"):
      _write(out, force=force, inputs=(None, source))
  link = tmp_path / "link"
  link.symlink_to(out)
  with pytest.raises(InputError, match="is a link"):
    _write(link, force=force)
  assert (out / "a").exists()


@pytest.mark.parametrize("name", [".", ".."])
def test_where_this_runs_is_not_replaced(name, tmp_path, monkeypatch):
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  with pytest.raises(InputError, match="is where this runs"):
    _write(pathlib.Path(name), force=True)
  assert here.is_dir()


def test_the_home_folder_is_not_replaced(tmp_path, monkeypatch):
  home = tmp_path / "home" / "user"
  home.mkdir(parents=True)
  monkeypatch.setenv("HOME", str(home))
  for path in (home, home.parent):
    with pytest.raises(InputError, match="is where the user lives"):
      _write(path, force=True)
  assert home.is_dir()


@pytest.mark.parametrize("call", range(4))
def test_a_run_after_a_kill_at_any_rename_leaves_nothing(
  call, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  _write(out)
  replace, left = os.replace, [call]

  def dies(*paths):
    if not left[0]:
      raise SystemExit
    left[0] -= 1
    replace(*paths)

  monkeypatch.setattr(storage.os, "replace", dies)
  # A killed process tidies nothing up.
  monkeypatch.setattr(storage, "_remove", lambda path: None)
  try:
    _write(out, "b", force=True)
  except SystemExit:
    pass
  monkeypatch.undo()
  _write(out, "b", force=True)
  assert _names(tmp_path) == ["out", "out/.instructrec.json", "out/b"]


@pytest.mark.parametrize("call", range(2, 4))
def test_a_rename_that_fails_changes_nothing(call, tmp_path, monkeypatch):
  """Such as that of a folder where a disk is mounted."""
  out = tmp_path / "out"
  _write(out)
  replace, left = os.replace, [call]

  def fails(*paths):
    left[0] -= 1
    if not left[0]:
      raise OSError(errno.EBUSY, "busy", str(paths[0]))
    replace(*paths)

  monkeypatch.setattr(storage.os, "replace", fails)
  with pytest.raises(OSError, match="busy"):
    _write(out, "b", force=True)
  assert left[0] <= 0
  assert _names(tmp_path) == ["out", "out/.instructrec.json", "out/a"]


def test_one_run_at_a_time_writes_a_folder(tmp_path):
  out = tmp_path / "out"
  with (
    staged_folder(out),
    pytest.raises(InputError, match="another run is writing here"),
    staged_folder(out, force=True),
  ):
    pass
  with (
    locks.writing_in(out),
    pytest.raises(InputError, match="another run is writing here"),
    staged_folder(out, force=True),
  ):
    pass


def _ours(path):
  return path.read_text() == "ours"


def test_force_replaces_only_a_file_of_the_same_kind(tmp_path):
  path = tmp_path / "out.txt"
  with (
    output_file(path, force=False, is_ours=_ours),
    staged_file(path) as partial,
  ):
    partial.write_text("ours")
  with pytest.raises(InputError, match="pass --force"):
    output_file(path, force=False, is_ours=_ours).__enter__()
  with output_file(path, force=True, is_ours=_ours):
    pass
  path.write_text("theirs")
  with pytest.raises(InputError, match="not what this command writes"):
    output_file(path, force=True, is_ours=_ours).__enter__()
  with pytest.raises(InputError, match="which is read"):
    output_file(path, force=True, is_ours=_ours, inputs=[path]).__enter__()
  with pytest.raises(InputError, match="no regular file"):
    output_file(
      pathlib.Path("/dev/null"), force=True, is_ours=_ours
    ).__enter__()
  assert _names(tmp_path) == ["out.txt"]


def test_a_folder_is_no_file(tmp_path):
  with (
    pytest.raises(InputError, match="is a folder: name a file"),
    staged_file(tmp_path),
  ):
    pass


@pytest.mark.parametrize("name", [".out.partial", ".out.old"])
@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_what_somebody_else_calls_so_stays(kind, name, tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "notes").write_text("mine")
  if kind == "folder":
    (tmp_path / "mine").rename(tmp_path / name)
  elif kind == "link":
    (tmp_path / name).symlink_to("mine")
  else:
    (tmp_path / name).write_text("mine")
  before = _names(tmp_path)
  for made_by in ("pack", None):
    with pytest.raises(InputError, match=f"{name} has a name that is needed"):
      _write(tmp_path / "out", made_by=made_by, may_go=lambda path: None)
    assert _names(tmp_path) == before


def test_a_scratch_file_is_neither_followed_nor_a_folder(tmp_path):
  (tmp_path / "mine").write_text("mine")
  (tmp_path / ".a.partial.txt").symlink_to("mine")
  with staged_file(tmp_path / "a.txt") as partial:
    partial.write_text("ours")
  assert (tmp_path / "mine").read_text() == "mine"
  assert not (tmp_path / "a.txt").is_symlink()
  (tmp_path / ".b.partial.txt").mkdir()
  (tmp_path / ".b.partial.txt" / "notes").write_text("mine")
  with (
    pytest.raises(InputError, match="b.partial.txt has a name that is needed"),
    staged_file(tmp_path / "b.txt"),
  ):
    pass
  assert (tmp_path / ".b.partial.txt" / "notes").exists()
