"""Tests for instructrec_jax/storage.py."""

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.storage import staged_file, staged_folder


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
  out = tmp_path / "out"
  with staged_folder(out) as partial:
    (partial / "a").write_text("1")
  with pytest.raises(InputError, match="pass --force"), staged_folder(out):
    pass
  with pytest.raises(RuntimeError), staged_folder(out, force=True) as partial:
    (partial / "b").write_text("2")
    raise RuntimeError
  assert [path.name for path in out.iterdir()] == ["a"]
  with staged_folder(out, force=True) as partial:
    (partial / "b").write_text("2")
  assert [path.name for path in tmp_path.rglob("*")] == ["out", "b"]


@pytest.mark.parametrize("name", [".", ".."])
def test_where_this_runs_is_not_replaced(name, tmp_path, monkeypatch):
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  with (
    pytest.raises(InputError, match="is where this runs"),
    staged_folder(name, force=True),
  ):
    pass
  assert here.is_dir()


def test_a_folder_is_no_file(tmp_path):
  with (
    pytest.raises(InputError, match="is a folder: name a file"),
    staged_file(tmp_path),
  ):
    pass
