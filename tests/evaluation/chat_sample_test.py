"""Tests for instructrec_jax/evaluation/chat_sample.py, against a server."""

import collections
import hashlib
import http.server
import json
import shutil
import threading

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.evaluation.evaluate import evaluate

from .conftest import pick, value

SCENARIO = "sequential"
ASKED = 48


class RankingServer(http.server.ThreadingHTTPServer):
  """Speaks the chat API, and ranks by the alphabet or misbehaves.

  Attributes:
    manners: of each distinct request.
    received: how often each came in.
  """

  daemon_threads = True

  def __init__(self, choose):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.choose = choose
    self.manners, self.received = {}, collections.Counter()
    self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

  def reply(self, body):
    """Returns a status and what is sent with it."""
    prompt = body["messages"][-1]["content"]
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    manner = self.choose(digest)
    self.manners[digest] = manner
    self.received[digest] += 1
    if manner == "429" and self.received[digest] == 1:
      return 429, {"error": {"message": "slow down"}}
    lines = prompt.split("Candidates:\n")[1].splitlines()
    titles = sorted(line.partition(". ")[2] for line in lines)
    message = {"role": "assistant", "content": "\n".join(titles)}
    reason = "stop"
    if manner == "illegal":
      message["content"] = "\n".join(["A better one", *titles])
    elif manner == "duplicate":
      message["content"] = "\n".join([titles[0], *titles])
    elif manner == "short":
      message["content"] = "\n".join(titles[:4])
    elif manner == "cut":
      reason, message["content"] = "length", "\n".join(titles[:4])[:-3]
    elif manner == "refusal":
      message |= {"content": None, "refusal": "I cannot help with that."}
    return 200, {
      "choices": [{"index": 0, "message": message, "finish_reason": reason}],
      "usage": {"prompt_tokens": 300, "completion_tokens": 90},
    }


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):  # noqa: N802 http.server's name
    length = int(self.headers["Content-Length"])
    status, answer = self.server.reply(json.loads(self.rfile.read(length)))
    payload = json.dumps(answer).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(payload)))
    self.end_headers()
    self.wfile.write(payload)

  def log_message(self, *args):
    pass


def always(manner):
  return lambda digest: manner


def mixed(digest):
  """A fault for about every other request, by its hash."""
  faults = ("illegal", "duplicate", "short", "cut", "refusal", "429")
  number = int(digest[:8], 16) % 12
  return faults[number] if number < len(faults) else "good"


@pytest.fixture
def serve():
  servers = []

  def start(choose):
    servers.append(RankingServer(choose))
    threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    return servers[-1]

  yield start
  for server in servers:
    server.shutdown()
    server.server_close()


@pytest.fixture
def shop(built, tmp_path):
  """A copy: answers are kept in it."""
  return shutil.copytree(built, tmp_path / "shop")


@pytest.fixture
def run(shop, tmp_path, capsys):
  """Returns a function that evaluates: its exit status, and what it printed."""

  def evaluate(server, *options, rankers="popularity,bm25,chat"):
    status = main(
      [
        *("evaluate", "--dataset", str(shop), "--out", str(tmp_path / "out")),
        *("--scenarios", SCENARIO, "--rankers", rankers, "--seed", "3"),
        *("--chat-model", "tiny-chat", "--chat-base-url", server.url),
        *("--force", *options),
      ]
    )
    return status, capsys.readouterr()

  return evaluate


def test_misbehaviour_is_counted_and_stands_in_the_table(serve, run, tmp_path):
  server = serve(mixed)
  status, printed = run(server, "--chat-limit", str(ASKED), "--json")
  assert status == 0
  results = json.loads(printed.out)
  (entry,) = results["chat"]
  manners = collections.Counter(server.manners.values())
  assert set(manners) == {
    *("good", "illegal", "duplicate", "short", "cut", "refusal", "429")
  }
  assert entry["n"] == manners.total() == ASKED
  assert entry["seed"] == 3 and entry["model"] == "tiny-chat"
  # 10 of most, one more of some, 4 of the short, 3 of the cut.
  lines = 10 * ASKED + manners["illegal"] + manners["duplicate"]
  lines -= 6 * manners["short"] + 7 * manners["cut"] + 10 * manners["refusal"]
  assert entry["lines"] == lines
  assert entry["illegal"] == pytest.approx(manners["illegal"] / lines)
  assert entry["duplicates"] == manners["duplicate"]
  assert entry["short"] == manners["short"]
  assert entry["truncated"] == manners["cut"]
  assert entry["refused"] == manners["refusal"]
  assert entry["failed"] == 0
  # One more send for those that were told to wait, none for poor answers.
  for digest, times in server.received.items():
    assert times == (2 if server.manners[digest] == "429" else 1)
  assert results["impossible"] == []

  sends = server.received.total()
  status, again = run(server, "--chat-limit", str(ASKED))
  assert status == 0 and server.received.total() == sends
  text = (tmp_path / "out" / "results.md").read_text()
  assert text in again.out
  assert f"| tiny-chat (of {ASKED}) |" in text
  assert (
    f"- tiny-chat was asked {ASKED} of the {entry['of']} requests, drawn at "
    "random, with the candidates in a random order (seed 3); "
    f"{entry['illegal']:.1%} of the {lines} lines of its answers name no "
    "candidate (illegal)"
  ) in text
  assert f"All of them on the same {ASKED} requests:" in text
  repeated = json.loads((tmp_path / "out" / "results.json").read_text())
  assert repeated["rows"] == results["rows"]
  assert repeated["chat"] == results["chat"]


def test_others_are_compared_on_the_very_same_requests(serve, run, shop):
  server = serve(always("good"))
  _, printed = run(server, "--chat-limit", str(ASKED), "--json")
  results = json.loads(printed.out)
  (entry,) = results["chat"]
  (row,) = pick(results, "rows", ranker="chat", metric="hr@1")
  assert row["n"] == ASKED and row["low"] <= row["value"] <= row["high"]
  (whole,) = pick(results, "rows", ranker="bm25", metric="hr@1")
  assert whole["n"] == entry["of"] > ASKED

  sampled = evaluate(
    dataset=shop,
    out=None,
    scenarios=[SCENARIO],
    rankers=["popularity", "bm25"],
    limit=ASKED,
    seed=3,
  )
  for name in ("popularity", "bm25"):
    (beside,) = [c for c in entry["comparisons"] if c["ranker"] == name][:1]
    figures = value(sampled, name, "hr@1")
    assert value(entry, name, "hr@1") == figures
    assert beside["against"] == "chat" and beside["n"] == ASKED
    assert beside["value"] == pytest.approx(figures - row["value"])
  assert {c["against"] for c in results["comparisons"]} != {"chat"}


def test_on_all_requests_there_is_one_table(serve, run):
  server = serve(always("good"))
  status, printed = run(server, "--limit", "20")
  assert status == 0 and server.received.total() == 20
  assert "- tiny-chat was asked all 20 requests, with" in printed.out
  assert "| tiny-chat  |" in printed.out
  assert "popularity - tiny-chat: HR@1" in printed.out
  assert "All of them on the same" not in printed.out


def test_a_cap_is_kept_and_nothing_is_paid_for_twice(
  serve, run, shop, tmp_path
):
  server = serve(always("good"))
  options = ("--chat-limit", str(ASKED))
  status, printed = run(server, *options, "--max-requests", "10")
  assert status == 2 and server.received.total() == 10
  assert "cap" in printed.err
  assert f"{ASKED - 10} of {ASKED} requests to tiny-chat" in printed.err
  assert not (tmp_path / "out").exists()
  assert (shop / "chat_rankings.sqlite").exists()
  status, printed = run(server, *options)
  assert status == 0
  assert set(server.received.values()) == {1}
  assert server.received.total() == ASKED


def test_dollars_are_capped_too(serve, run):
  server = serve(always("good"))
  prices = ("--prices", "1000", "1000", "--max-usd", "2")
  status, printed = run(server, "--chat-limit", "20", *prices)
  assert status == 2 and "cap on dollars" in printed.err
  # Of 390 tokens each, at a dollar a thousand.
  assert server.received.total() * 0.39 <= 2
  status, printed = run(server, "--max-usd", "2")
  assert status == 2 and "--prices" in printed.err


def test_a_dry_run_sends_nothing(serve, run, tmp_path):
  server = serve(always("good"))
  status, printed = run(
    server, "--chat-limit", "20", "--dry-run", "--prices", "1", "2"
  )
  assert status == 0 and not server.received
  assert printed.out.startswith("20 requests without an answer: about ")
  assert "dollars. Nothing was sent." in printed.out
  assert not (tmp_path / "out").exists()


def test_alone_it_has_a_table_too(serve, run):
  server = serve(always("good"))
  status, printed = run(server, "--chat-limit", "20", rankers="chat")
  assert status == 0 and "| tiny-chat (of 20) |" in printed.out


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--rankers", "all"], "--rankers names chat"),
    (["--chat-model", ""], "--chat-model is ''"),
    (["--scenarios", "pointwise"], "'chat' is for scenarios of a list"),
    (["--chat-limit", "0"], "--chat-limit is 0"),
    (["--multi_process"], "each process would pay"),
    (["--prices", "nan", "1"], "--prices is nan"),
  ],
)
def test_bad_input_is_one_sentence(serve, run, options, message):
  server = serve(always("good"))
  status, printed = run(server, *options)
  assert status == 2 and not server.received
  assert message in printed.err and printed.err.count("\n") == 1
