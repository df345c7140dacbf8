"""Who may ask a server, and from where."""

import dataclasses
import hmac
import ipaddress
import os
import pathlib
import re
from collections.abc import Mapping

from instructrec_jax.errors import InputError, check_file

KEY_VARIABLE = "INSTRUCTREC_API_KEY"
# So that a typo, or an empty secret of a deployment, locks nobody in.
_SHORTEST = 8
# An address of IPv6 in brackets, or a name, and a port.
_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::\d+)?")


@dataclasses.dataclass(frozen=True)
class Access:
  """Who may ask.

  Attributes:
    keys: any of them opens all; without keys, nobody is asked for one.
    cors_origins: of pages on other hosts whose scripts may ask, or "*".
    root_path: where a proxy shows the server, such as /recs.
    hosts: names, beside this machine's own, under which it may be asked; "*"
      is any, and "*.shop.example" any below that. A page of somebody else's can
      have its own name lead to this machine (DNS rebinding), and its visitor's
      browser would then let it read all answers.
  """

  keys: tuple[str, ...] = ()
  cors_origins: tuple[str, ...] = ()
  root_path: str = ""
  hosts: tuple[str, ...] = ("*",)

  def admits(self, headers: Mapping[str, str]) -> bool:
    """Whether a request has a key: as a bearer token, or in X-API-Key."""
    if not self.keys:
      return True
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token if scheme.lower() == "bearer" else ""
    given = (given or headers.get("x-api-key", "")).strip().encode()
    # All are compared, so that the time tells nothing of them.
    same = [hmac.compare_digest(given, key.encode()) for key in self.keys]
    return any(same)

  def answers_to(self, host: str) -> bool:
    """Whether a request with this Host header is to be answered."""
    if "*" in self.hosts:
      return True
    found = _HOST.fullmatch(host.lower())
    if found is None:
      return False
    name = (found[1] or found[2]).removesuffix(".")
    if name == "localhost" or is_loopback(name):
      return True
    return any(
      name.endswith(each[1:]) if each.startswith("*.") else name == each
      for each in map(str.lower, self.hosts)
    )


def is_loopback(address: str) -> bool:
  """Whether an address can be reached from its own machine alone."""
  try:
    return ipaddress.ip_address(address).is_loopback
  except ValueError:
    return False


def read_keys(file: pathlib.Path | None) -> tuple[str, ...]:
  """Returns the keys of a file, a line each, or of INSTRUCTREC_API_KEY.

  Raises:
    InputError: the file cannot be read, there is no key in it, or a key is not
      of 8 or more visible characters.
  """
  if file is None:
    given = os.environ.get(KEY_VARIABLE)
    if given is None:
      return ()
    where, lines = KEY_VARIABLE, given.split(",")
  else:
    where = str(file)
    check_file(file, is_small=True)
    try:
      lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
      why = getattr(error, "strerror", None) or "it is not UTF-8"
      raise InputError(f"--api-key is {file}: {why}.") from None
  keys = [key for line in lines if (key := line.strip()) and key[0] != "#"]
  if not keys:
    raise InputError(
      f"{where}: there is no API key; `openssl rand -hex 24` makes one."
    )
  for number, key in enumerate(keys, start=1):
    if len(key) < _SHORTEST or not (key.isascii() and key.isprintable()):
      raise InputError(
        f"{where}: key {number} is not of at least {_SHORTEST} visible ASCII "
        "characters."
      )
    if " " in key:
      raise InputError(f"{where}: key {number} has a space in it.")
  return tuple(keys)
