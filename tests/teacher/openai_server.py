"""A server that speaks OpenAI's chat API on loopback: a double of the server.

    python openai_server.py LOG LATENCY_SECONDS FAULTS

prints its port. FAULTS is JSON: a fault's name -> the share of requests that
meet it, by the hash of their bodies; each meets it once only, unless the name
ends in "!". Every request is logged as a line "HASH FAULT" before it is
answered: what a customer would be billed for.
"""

import asyncio
import collections
import hashlib
import json
import sys

KEY = "sk-secret-of-the-tests-0123456789"


class Server:
  """Counts, and answers or misbehaves."""

  def __init__(self, log, latency: float, faults: dict[str, float]):
    self.log, self.latency, self.faults = log, latency, faults
    self.seen = collections.Counter()

  def fault_of(self, digest: str) -> str:
    """Returns a request's fault, or "" for an honest answer."""
    place, start = int(digest[:8], 16) / 16**8, 0.0
    for name, share in self.faults.items():
      if start <= place < start + share:
        always = name.endswith("!")
        return name.rstrip("!") if always or self.seen[digest] == 1 else ""
      start += share
    return ""

  async def serve(self, reader, writer) -> None:
    """Serves one connection until either side has enough."""
    try:
      while head := await reader.readuntil(b"\r\n\r\n"):
        headers = head.decode("latin-1").lower().split("\r\n")
        length = next(
          int(h.split(":")[1]) for h in headers if h.startswith("content-l")
        )
        body = await reader.readexactly(length)
        digest = hashlib.sha256(body).hexdigest()
        self.seen[digest] += 1
        fault = self.fault_of(digest)
        if f"authorization: bearer {KEY}" not in headers:
          fault = "401"
        self.log.write(f"{digest} {fault}\n")
        self.log.flush()
        await asyncio.sleep(self.latency)
        if fault == "cut":
          break
        if fault == "hang":
          await asyncio.sleep(60)
        status, extra, text = respond(json.loads(body), fault)
        payload = text.encode()
        writer.write(
          f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}"
          f"Content-Length: {len(payload)}\r\n\r\n".encode()
          + payload
        )
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
      pass
    finally:
      writer.close()


def respond(body: dict, fault: str) -> tuple[int, str, str]:
  """Returns a status, further headers and the payload."""
  if fault == "quota":
    error = {"message": "no credit", "code": "insufficient_quota"}
    return 429, "", json.dumps({"error": error})
  if fault in ("429", "500", "401", "400", "404"):
    extra = "Retry-After: 0.05\r\n" if fault == "429" else ""
    message = f"Incorrect API key provided: {KEY}" if fault == "401" else "no"
    return int(fault), extra, json.dumps({"error": {"message": message}})
  if fault == "not_json":
    return 200, "", "<html>gateway</html>"
  schema = body["response_format"]["json_schema"]["schema"]
  mark = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:12]
  values = {
    name: True if field["type"] == "boolean" else f"I want {mark}"
    for name, field in schema["properties"].items()
  }
  text, reason, refusal = json.dumps(values), "stop", None
  if fault == "truncated":
    text, reason = text[: len(text) // 2], "length"
  elif fault == "malformed":
    text = "Sure! Here it is."
  elif fault == "refusal":
    text, refusal = None, "I cannot help with that."
  message = {"role": "assistant", "content": text, "refusal": refusal}
  completion = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
  }  # fmt: skip
  if fault == "no_usage":
    del completion["usage"]
  return 200, "", json.dumps(completion)


async def main(log_path: str, latency: str, faults: str) -> None:
  """Serves until the process is ended."""
  with open(log_path, "a", encoding="ascii") as log:
    server = Server(log, float(latency), json.loads(faults))
    listening = await asyncio.start_server(
      server.serve, "127.0.0.1", 0, limit=1 << 20, backlog=512
    )
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
  asyncio.run(main(*sys.argv[1:]))
