"""A server on loopback with the files and batches of OpenAI's API.

It answers each batch in reverse order when it is first looked at for the
second time, and can fail in the ways that the tests name.
"""

import collections
import email
import email.policy
import http.server
import json
import re
import threading
from collections.abc import Callable
from typing import Any

KEY = "sk-test-0123456789"


def completion(body: dict) -> dict:
  """Returns a chat completion whose text repeats what the user said."""
  text = _dump({"text": body["messages"][1]["content"]}).decode()
  message = {"role": "assistant", "content": text}
  return {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5},
  }


def done(line: dict, *, status: int = 200, body: dict | None = None) -> dict:
  """Returns the line of a request that was answered."""
  response = {
    "status_code": status,
    "request_id": "req_1",
    "body": completion(line["body"]) if body is None else body,
  }
  key = line["custom_id"]
  return {"id": "r", "custom_id": key, "response": response, "error": None}


def expired(line: dict) -> dict:
  """Returns the line of a request that was not answered in time."""
  error = {"code": "batch_expired", "message": "Could not be run in time."}
  key = line["custom_id"]
  return {"id": "r", "custom_id": key, "response": None, "error": error}


class BatchServer:
  """The server, running within `with`.

  Attributes:
    answer: makes the line of answers (bytes for a broken one, None for none)
      from the number of a batch, from 0, and a line of it.
    end: makes a batch's last status and list of errors from its number.
    lose: answers to the creation of batches that are lost on the way.
    open_polls: how often a batch is seen in progress; None is for ever.
    batches: by id, with the lines under `lines`.
    on_create: called after a batch was made, before the answer is sent.
    polls_down: polls to answer with status 503.
  """

  def __init__(self):
    self.answer: Callable[[int, dict], Any] = lambda _, line: done(line)
    self.end: Callable[[int], tuple[str, list]] = lambda _: ("completed", [])
    self.on_create: Callable[[], None] = lambda: None
    self.lose = 0
    self.polls_down = 0
    self.open_polls: int | None = 1
    self.files: dict[str, bytes] = {}
    self.batches: dict[str, dict] = {}

  def __enter__(self) -> "BatchServer":
    self._lock = threading.Lock()
    server = self

    class Handler(_Handler):
      owner = server

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
    threading.Thread(target=self._http.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *error: object) -> None:
    self._http.shutdown()
    self._http.server_close()

  def submitted(self) -> list[str]:
    """Returns the user texts of all batches, as often as they came."""
    return [
      line["body"]["messages"][1]["content"]
      for batch in self.batches.values()
      for line in batch["lines"]
    ]

  def store_file(self, content: bytes) -> dict:
    with self._lock:
      name = f"file-{len(self.files)}"
      self.files[name] = content
    return {
      "id": name, "object": "file", "bytes": len(content), "created_at": 1,
      "filename": "f.jsonl", "purpose": "batch", "status": "processed",
    }  # fmt: skip

  def create(self, request: dict) -> dict:
    lines = self.files[request["input_file_id"]].splitlines()
    with self._lock:
      number = len(self.batches)
      batch = {
        **request,
        "id": f"batch_{number}",
        "object": "batch",
        "created_at": 1,
        "status": "validating",
        "number": number,
        "polls": 0,
        "lines": [json.loads(line) for line in lines],
      }
      self.batches[batch["id"]] = batch
    self.on_create()
    return batch

  def look(self, batch: dict) -> dict:
    """Moves a batch on, and returns it."""
    batch["polls"] += 1
    if self.open_polls is None or batch["polls"] <= self.open_polls:
      batch["status"] = "in_progress"
    elif batch["status"] == "in_progress" or self.open_polls == 0:
      self._end(batch)
    return batch

  def _end(self, batch: dict) -> None:
    number = batch["number"]
    batch["status"], errors = self.end(number)
    if errors:
      batch["errors"] = {"object": "list", "data": errors}
      return
    outputs = collections.defaultdict(list)
    for line in reversed(batch["lines"]):
      row = self.answer(number, line)
      if row is None:
        continue
      if isinstance(row, bytes):
        outputs["output_file_id"].append(row)
      else:
        good = (row["response"] or {}).get("status_code") == 200
        outputs["output_file_id" if good else "error_file_id"].append(
          _dump(row)
        )
    for name, rows in outputs.items():
      batch[name] = self.store_file(b"\n".join(rows))["id"]


class _Handler(http.server.BaseHTTPRequestHandler):
  owner: BatchServer
  protocol_version = "HTTP/1.1"

  def log_message(self, format: str, *args: Any) -> None:
    pass

  def do_POST(self) -> None:
    content = self.rfile.read(int(self.headers["Content-Length"]))
    if not self._allowed():
      return
    if self.path == "/v1/files":
      head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
      form = email.message_from_bytes(head + content, policy=email.policy.HTTP)
      parts = {
        p.get_param("name", header="content-disposition"): p.get_payload(
          decode=True
        )
        for p in form.iter_parts()
      }
      assert parts["purpose"] == b"batch"
      self._send(self.owner.store_file(parts["file"]))
    elif self.path == "/v1/batches":
      batch = self.owner.create(json.loads(content))
      if self.owner.lose:
        self.owner.lose -= 1
        self.close_connection = True
      else:
        self._send(batch)
    else:
      self._fail(404, "no such page")

  def do_GET(self) -> None:
    if not self._allowed():
      return
    owner = self.owner
    if found := re.fullmatch(r"/v1/files/([\w-]+)/content", self.path):
      self._send(owner.files[found[1]])
    elif found := re.fullmatch(r"/v1/batches/(\w+)", self.path):
      if owner.polls_down:
        owner.polls_down -= 1
        self._fail(503, "overloaded")
      elif found[1] in owner.batches:
        self._send(owner.look(owner.batches[found[1]]))
      else:
        self._fail(404, "no such batch")
    elif self.path.startswith("/v1/batches?"):
      # Pages of one, so that clients have to turn them.
      ids = list(reversed(owner.batches))
      after = re.search(r"after=(\w+)", self.path)
      start = ids.index(after[1]) + 1 if after else 0
      page = [owner.batches[i] for i in ids[start : start + 1]]
      more = len(ids) > start + 1
      self._send({"object": "list", "data": page, "has_more": more})
    else:
      self._fail(404, "no such page")

  def _allowed(self) -> bool:
    key = self.headers["Authorization"].removeprefix("Bearer ")
    if key != KEY:
      self._fail(401, f"Incorrect API key provided: {key}")
    return key == KEY

  def _fail(self, status: int, message: str) -> None:
    self._send({"error": {"message": message}}, status=status)

  def _send(self, value: Any, *, status: int = 200) -> None:
    if isinstance(value, dict):
      hidden = ("lines", "polls", "number")
      value = _dump({k: v for k, v in value.items() if k not in hidden})
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(value)))
    self.end_headers()
    self.wfile.write(value)


def _dump(value: dict) -> bytes:
  # Not escaped: answers may hold U+2028, which some take for a line's end.
  return json.dumps(value, ensure_ascii=False).encode()
