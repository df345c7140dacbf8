"""No value of prices, caps, workers or tokens lets more be sent than a cap.

`annotate`'s options as one would type them, its transport, and a server on
loopback that counts what it would bill.
"""

import fractions
import http.server
import json
import pathlib
import tempfile
import threading

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from instructrec_jax.cli import annotate
from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError
from instructrec_jax.teacher import online
from instructrec_jax.teacher.budget import Budget, Prices, most_tokens
from instructrec_jax.teacher.store import Store

from .samples import make_requests

REQUESTS = 12
ABSURD = ("nan", "inf", "-inf", "-10", "-0.0", "0", "1e400", "1e-320", "x", "")


class Server:
  """Answers at once, with the most tokens that it was asked for.

  Attributes:
    sent: requests that came.
    tokens: of prompts and answers, as billed.
    factor: by which it counts more tokens of a prompt than others.
    redirects: it answers nothing, and asks to be asked again.
  """

  def __init__(self, *, factor=1, redirects=False):
    self.sent, self.tokens = 0, [0, 0]
    self.factor, self.redirects = factor, redirects
    lock, server = threading.Lock(), self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def log_message(self, format, *args):
        pass

      def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if server.redirects:
          server.sent += 1
          self.send_response(307)
          self.send_header("Location", self.path)
          self.send_header("Content-Length", "0")
          self.end_headers()
          return
        texts = "".join(each["content"] for each in body["messages"])
        usage = {
          # Some servers count bytes, and words of their own.
          "prompt_tokens": len(texts.encode()) // 3 * server.factor,
          "completion_tokens": body["max_completion_tokens"],
        }
        with lock:
          server.sent += 1
          # Every third is none that the schema asks for, and asked again.
          broken = server.sent % 3 == 0
          server.tokens[0] += usage["prompt_tokens"]
          server.tokens[1] += usage["completion_tokens"]
        fields = body["response_format"]["json_schema"]["schema"]["properties"]
        text = "no" if broken else json.dumps(dict.fromkeys(fields, "words"))
        message = {"role": "assistant", "content": text}
        choice = {"message": message, "finish_reason": "stop"}
        payload = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
    threading.Thread(
      target=self._http.serve_forever, args=(0.01,), daemon=True
    ).start()

  def usd(self, prices) -> fractions.Fraction:
    """Returns the bill at prices a million tokens, without rounding."""
    exact = map(fractions.Fraction, prices)
    return sum(p * n for p, n in zip(exact, self.tokens, strict=True)) / 10**6

  def close(self) -> None:
    """Stops serving."""
    self._http.shutdown()
    self._http.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("dataset")
  (path / "manifest.json").write_text("{}")
  return path


def _numbers(low: float, high: float):
  numbers = st.floats(low, high).map(repr)
  return st.one_of(*[numbers] * 9, st.sampled_from(ABSURD))


def _counts(low: int, high: int):
  counts = st.integers(low, high).map(str)
  absurd = st.sampled_from((*ABSURD, "1.5", "9" * 30))
  return st.one_of(*[counts] * 9, absurd)


CAPS = st.fixed_dictionaries(
  {},
  optional={
    "--prices": st.tuples(_numbers(0, 100), _numbers(0, 100)),
    "--max-usd": _numbers(0, 0.02).map(lambda each: (each,)),
    "--max-requests": _counts(0, 15).map(lambda each: (each,)),
    "--workers": _counts(1, 9).map(lambda each: (each,)),
    "--max-tokens": _counts(1, 300).map(lambda each: (each,)),
    "--temperature": _numbers(0, 2).map(lambda each: (each,)),
  },
)


@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(given=CAPS)
@example(given={"--prices": ("nan", "nan"), "--max-usd": ("1",)})
@example(given={"--prices": ("-10", "-10"), "--max-usd": ("1",)})
@example(given={"--prices": ("0", "0"), "--max-usd": ("1",)})
@example(given={"--prices": ("inf", "1"), "--max-usd": ("inf",)})
@example(given={"--prices": ("1", "1"), "--max-usd": ("nan",)})
@example(given={"--prices": ("10", "10"), "--max-usd": ("0.01",)})
@example(given={"--prices": ("0.1", "0.2"), "--max-usd": ("0.0003",)})
@example(given={"--max-requests": ("5",), "--workers": ("9",)})
@example(given={"--max-requests": ("-1",)})
@example(given={"--workers": ("0",)})
def test_what_is_sent_keeps_to_every_cap_that_is_accepted(
  given, folder, monkeypatch
):
  monkeypatch.setenv("OPENAI_API_KEY", "k")
  server = Server()
  words = ["--dataset", str(folder), "--teacher", "openai", "--model", "m"]
  words += ["--base-url", server.url]
  for flag, values in given.items():
    words += [flag, *values]
  try:
    options = opt.parse(opt.Parser(prog="test"), annotate.Options, words)
    send = annotate._transport(options)
    with (
      tempfile.TemporaryDirectory() as place,
      Store(pathlib.Path(place) / "a.sqlite", dataset="d") as store,
    ):
      requests = [
        _with(request, options.chat.parameters)
        for request in make_requests(REQUESTS)
      ]
      send(requests, store)
      answered = sum(store.count().values())
  except InputError as error:
    assert "\n" not in str(error)
    assert server.sent == 0
    return
  finally:
    server.close()
  money = options.money
  if money.max_requests is not None:
    assert server.sent <= money.max_requests
  if money.max_usd is not None:
    assert server.usd(money.prices) <= fractions.Fraction(money.max_usd)
  if money.max_requests is None and money.max_usd is None:
    assert answered == REQUESTS


def test_one_send_shows_how_a_server_counts(store):
  server = Server(factor=9)
  requests = [
    _with(each, {"max_completion_tokens": 10}) for each in make_requests(40)
  ]
  prompt, completion = most_tokens(requests[0])
  prices = Prices(prompt=100.0, completion=1.0)
  cap = 8 * prices.usd(9 * prompt, completion)
  budget = Budget(prices=prices, max_usd=cap)
  try:
    online.answer_all(
      requests,
      store=store,
      client=online.make_client(server.url),
      budget=budget,
      limits=online.Limits(workers=32),
    )
  finally:
    server.close()
  assert 5 <= server.sent and server.usd((100.0, 1.0)) <= cap


def test_a_redirection_is_not_followed(store):
  server = Server(redirects=True)
  try:
    with pytest.raises(InputError, match="307"):
      online.answer_all(
        make_requests(1),
        store=store,
        client=online.make_client(server.url),
        budget=Budget(max_requests=1),
      )
  finally:
    server.close()
  assert server.sent == 1


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "a.sqlite", dataset="d") as found:
    yield found


def _with(request, parameters):
  fields = {name: getattr(request, name) for name in request.__match_args__}
  return type(request)(**fields | {"parameters": parameters})
