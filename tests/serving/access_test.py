"""Tests for instructrec_jax/serving/access.py."""

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.serving.access import KEY_VARIABLE, Access, read_keys


def test_keys_are_of_a_file_or_of_the_variable(tmp_path, monkeypatch):
  monkeypatch.delenv(KEY_VARIABLE, raising=False)
  assert read_keys(None) == ()
  monkeypatch.setenv(KEY_VARIABLE, "first-key, second-key")
  assert read_keys(None) == ("first-key", "second-key")
  file = tmp_path / "keys"
  file.write_text("# of the shop\nthird-key\n\n  fourth-key \n")
  assert read_keys(file) == ("third-key", "fourth-key")


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("", "no API key"),
    ("# nothing\n\n", "no API key"),
    ("short", "key 1 is not of at least 8"),
    ("a-good-key\nschlüssel-1", "key 2"),
    ("two words", "space"),
    ("a\tkey-of-8", "visible"),
  ],
)
def test_a_bad_key_is_refused_and_not_printed(tmp_path, text, says):
  file = tmp_path / "keys"
  file.write_text(text, encoding="utf-8")
  with pytest.raises(InputError, match=says) as raised:
    read_keys(file)
  assert str(file) in str(raised.value)
  for line in filter(None, text.split("\n")):
    assert line.strip() not in str(raised.value) or line.startswith("#")


def test_an_empty_variable_locks_nobody_in(monkeypatch):
  # As of a secret that a deployment has forgotten.
  monkeypatch.setenv(KEY_VARIABLE, "")
  with pytest.raises(InputError, match=KEY_VARIABLE):
    read_keys(None)


def test_a_file_that_is_no_text_is_one_sentence(tmp_path):
  (tmp_path / "keys").write_bytes(b"\xff\xfe key")
  with pytest.raises(InputError, match="not UTF-8"):
    read_keys(tmp_path / "keys")


@pytest.mark.parametrize(
  ("host", "is_own"),
  [
    ("localhost", True),
    ("LOCALHOST:8000", True),
    ("127.0.0.1:8000", True),
    ("[::1]:8000", True),
    ("[::1]", True),
    ("recs.shop.example.", True),
    ("Recs.Shop.Example:443", True),
    ("a.b.lab.example", True),
    ("lab.example", False),
    ("shop.example", False),
    ("evil.recs.shop.example", False),
    ("evil-lab.example", False),
    ("localhost.evil.example", False),
    ("127.0.0.1.evil.example:8000", False),
    ("[::1].evil.example", False),
    ("localhost:8000:evil", False),
    ("10.0.0.7", False),
    ("", False),
  ],
)
def test_a_server_answers_to_its_own_names_alone(host, is_own):
  access = Access(hosts=("recs.shop.example", "*.Lab.example"))
  assert access.answers_to(host) == is_own
  assert Access().answers_to(host)


def test_without_keys_nobody_is_asked_for_one():
  assert Access().admits({})
  assert not Access(keys=("a-key-of-8",)).admits({})
