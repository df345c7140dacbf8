"""Drives a headless Chromium over a pipe, with nothing but Chromium itself."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

# Of any wait: what hangs must not hang the tests.
SECONDS = 90
_KEYS = {
  "Tab": (9, ""),
  "Enter": (13, "\r"),
  "Space": (32, " "),
  "ArrowDown": (40, ""),
}


def find_chromium() -> str | None:
  """Returns the browser's path, None where there is none."""
  names = ("chromium", "chromium-browser", "google-chrome")
  return next(filter(None, map(shutil.which, names)), None)


class Page:
  """A page of the browser.

  Attributes:
    errors: what the console or a script complained of.
    requested: addresses that the page asked for.
  """

  def __init__(self, commands: int, answers: int):
    """Opens a page over the browser's two pipes."""
    self.errors: list[str] = []
    self.requested: list[str] = []
    self._commands, self._answers = commands, answers
    self._numbers = itertools.count(1)
    self._unread = b""
    self._loaded: set[str] = set()
    self._session: dict[str, str] = {}
    target = self.call("Target.createTarget", url="about:blank")
    self._session = {
      "sessionId": self.call(
        "Target.attachToTarget", targetId=target["targetId"], flatten=True
      )["sessionId"]
    }
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")
    self.call("Page.setLifecycleEventsEnabled", enabled=True)

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Calls a method of the DevTools protocol."""
    number = next(self._numbers)
    command = {"id": number, "method": method, "params": params}
    data = json.dumps({**command, **self._session}).encode() + b"\0"
    while data:
      data = data[os.write(self._commands, data) :]
    while True:
      message = self._receive()
      if message.get("id") == number:
        assert "error" not in message, message
        return message["result"]
      self._note(message)

  def open(self, url: str) -> None:
    """Goes to an address, and waits for its scripts."""
    # A script sent while one process hands over to another may never be
    # answered, so that nothing is asked before the event.
    loader = self.call("Page.navigate", url=url).get("loaderId")
    while loader and loader not in self._loaded:
      self._note(self._receive())

  def evaluate(self, expression: str) -> Any:
    """Returns the value of a JavaScript expression."""
    found = self.call(
      "Runtime.evaluate",
      expression=expression,
      returnByValue=True,
      awaitPromise=True,
    )
    assert "exceptionDetails" not in found, found["exceptionDetails"]
    return found["result"].get("value")

  def wait(self, expression: str, *, seconds: float = SECONDS) -> None:
    """Waits until an expression is true."""
    until = time.monotonic() + seconds
    while not self.evaluate(expression):
      assert time.monotonic() < until, f"never true: {expression}"
      time.sleep(0.05)

  def type(self, text: str) -> None:
    """Types into what has the focus."""
    self.call("Input.insertText", text=text)

  def press(self, key: str, *, shift: bool = False) -> None:
    """Presses and releases a key."""
    code, text = _KEYS[key]
    of_key = {
      "key": " " if key == "Space" else key,
      "code": key,
      "windowsVirtualKeyCode": code,
      "modifiers": 8 if shift else 0,
    }
    self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **of_key)
    self.call("Input.dispatchKeyEvent", type="keyUp", **of_key)

  def tab_to(self, element_id: str) -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(150):
      self.press("Tab")
      if self.evaluate("document.activeElement.id") == element_id:
        return
    raise AssertionError(f"the keyboard does not reach {element_id}")

  def resize(self, width: int, height: int, *, mobile: bool) -> None:
    """Makes the window that of a phone or of a desktop."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=mobile,
    )

  def set_scheme(self, scheme: str) -> None:
    """Prefers "light" or "dark" colours."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    self.call("Emulation.setEmulatedMedia", features=[feature])

  def set_offline(self, offline: bool) -> None:
    """Takes the network away, or gives it back."""
    self.call(
      "Network.emulateNetworkConditions",
      offline=offline,
      latency=0,
      downloadThroughput=-1,
      uploadThroughput=-1,
    )

  def screenshot(self, path: pathlib.Path) -> None:
    """Writes the whole page as a PNG."""
    image = self.call("Page.captureScreenshot", captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(image["data"]))

  def _receive(self) -> dict[str, Any]:
    while b"\0" not in self._unread:
      ready, _, _ = select.select([self._answers], [], [], SECONDS)
      assert ready, f"the browser says nothing for {SECONDS} s"
      read = os.read(self._answers, 1 << 16)
      assert read, "the browser has ended"
      self._unread += read
    message, _, self._unread = self._unread.partition(b"\0")
    return json.loads(message)

  def _note(self, event: dict[str, Any]) -> None:
    params = event.get("params", {})
    match event.get("method"):
      case "Runtime.exceptionThrown":
        self.errors.append(str(params["exceptionDetails"]))
      case "Runtime.consoleAPICalled" if params["type"] == "error":
        self.errors.append(str(params["args"]))
      case "Log.entryAdded" if params["entry"]["level"] == "error":
        self.errors.append(str(params["entry"]))
      case "Page.lifecycleEvent" if params["name"] == "load":
        self._loaded.add(params["loaderId"])
      case "Network.requestWillBeSent":
        self.requested.append(params["request"]["url"])
      case "Page.javascriptDialogOpening":
        self.errors.append(f"a dialog: {params['message']}")


@contextlib.contextmanager
def opened(chromium: str, profile: pathlib.Path) -> Iterator[Page]:
  """Starts a browser with a new profile; yields a page of it."""
  to_browser, commands = os.pipe()
  answers, from_browser = os.pipe()
  options = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run "
    f"--disable-dev-shm-usage --remote-debugging-pipe --user-data-dir={profile}"
  )
  process = subprocess.Popen(
    # The protocol's pipes are 3 and 4; a plain sh takes numbers of one digit.
    f"exec {chromium} {options} 3<&{to_browser} 4>&{from_browser}",
    shell=True,
    executable=shutil.which("bash"),
    pass_fds=(to_browser, from_browser),
    start_new_session=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  os.close(to_browser)
  os.close(from_browser)
  try:
    yield Page(commands, answers)
  finally:
    os.close(commands)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(10)
    # It, where it does not end, and what it has left behind.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(answers)
