"""Tests for instructrec_jax/serving/app.py: a server, asked over HTTP."""

import concurrent.futures
import copy
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from instructrec_jax.serving import middleware, schemas
from instructrec_jax.serving.app import Limits, create_app
from instructrec_jax.serving.server import running


@pytest.fixture(scope="module")
def url(recommender):
  with running(create_app(recommender)) as url:
    yield url


def get(url: str) -> tuple[int, str, dict[str, str]]:
  try:
    with urllib.request.urlopen(url, timeout=60) as answer:
      return answer.status, answer.read().decode(), dict(answer.headers)
  except urllib.error.HTTPError as error:
    return error.code, error.read().decode(), dict(error.headers)


def post(url: str, body, **headers) -> tuple[int, dict]:
  data = body if isinstance(body, bytes) else json.dumps(body).encode()
  asked = urllib.request.Request(
    url, data, {"Content-Type": "application/json", **headers}
  )
  status, text, _ = get(asked)  # type: ignore[arg-type]
  return status, json.loads(text)


@pytest.mark.parametrize("version", ["1", "2"])
def test_rerank_is_the_librarys_ranking(url, recommender, version):
  titles = [*recommender.titles[:12]]
  said = {"history": titles[8:], "preference": "I like blue boats"}
  status, answer = post(
    f"{url}/v{version}/rerank",
    {"query": "a tent for rain", "documents": titles[:8], **said},
  )
  assert status == 200
  found = recommender.rank("a tent for rain", candidates=titles[:8], **said)
  assert [titles[each["index"]] for each in answer["results"]] == [
    each.title for each in found.ranking
  ]
  for name in ("log_likelihood", "probability"):
    np.testing.assert_allclose(
      [
        each[name.replace("probability", "relevance_score")]
        for each in answer["results"]
      ],
      [getattr(each, name) for each in found.ranking],
      rtol=1e-5,
    )
  assert answer["instruction"] == found.composed.instruction
  assert answer["template"] == found.composed.form.template.name
  assert answer["meta"]["api_version"] == {"version": version}
  texts = (answer["instruction"], *titles[:8])
  tokens = sum(recommender.vocabulary.count_tokens(t) + 1 for t in texts)
  assert answer["usage"]["total_tokens"] == tokens


def test_documents_may_be_objects_and_come_back_if_asked(url, recommender):
  first, second, third = recommender.titles[:3]
  documents = [{"text": first, "sku": 7}, second, {"text": third}]
  body = {"query": "a tent", "documents": documents, "model": "rerank-v3.5"}
  _, plain = post(f"{url}/v1/rerank", {**body, "max_chunks_per_doc": 10})
  assert "document" not in plain["results"][0]
  _, full = post(
    f"{url}/v1/rerank", {**body, "top_n": 2, "return_documents": True}
  )
  assert len(full["results"]) == 2
  for each in full["results"]:
    text = (first, second, third)[each["index"]]
    assert each["document"] == {"text": text}


def test_a_public_rerank_client_needs_no_change(url, recommender):
  cohere = pytest.importorskip("cohere")
  titles = [*recommender.titles[:6]]
  expected = recommender.rank("a tent", candidates=titles)
  order = [titles.index(each.title) for each in expected.ranking]
  client = cohere.Client(api_key="any", base_url=url)
  answer = client.rerank(
    query="a tent", documents=titles, model="any", return_documents=True
  )
  assert [each.index for each in answer.results] == order
  assert answer.results[0].document.text == titles[order[0]]
  second = cohere.ClientV2(api_key="any", base_url=url).rerank(
    query="a tent", documents=titles, model="any", top_n=3
  )
  assert [each.index for each in second.results] == order[:3]
  scores = [each.relevance_score for each in second.results]
  assert scores == pytest.approx(
    [each.probability for each in expected.ranking[:3]], rel=1e-5
  )
  with pytest.raises(cohere.errors.UnprocessableEntityError, match="same"):
    client.rerank(query="a", documents=["a", "a"], model="any")


def test_recommend_is_the_librarys_top_of_the_catalogue(url, recommender):
  history = [*recommender.titles[:2]]
  status, answer = post(
    f"{url}/v1/recommend", {"query": "a tent", "history": history, "top_n": 5}
  )
  found = recommender.recommend("a tent", history=history, k=5)
  titles = [each["document"]["text"] for each in answer["results"]]
  assert status == 200
  assert titles == [each.title for each in found.ranking]
  assert titles == [
    recommender.titles[each["index"]] for each in answer["results"]
  ]
  assert not set(titles) & set(history)


def test_explain_and_instructions_are_the_librarys(url, recommender):
  body = {"query": "a calm boat", "documents": [*recommender.titles[:4]]}
  _, explained = post(f"{url}/v1/explain", {**body, "words": 2})
  found = recommender.explain(
    "a calm boat", candidates=body["documents"], words=2
  )
  assert [each["text"] for each in explained["weights"]] == [
    each.text for each in found.weights
  ]
  _, composed = post(f"{url}/v1/instructions", body)
  assert composed["instruction"] == explained["instruction"]
  status, _ = post(f"{url}/v1/instructions", {"history": body["documents"]})
  assert status == 200


def test_the_catalogue_can_be_searched(url, recommender):
  title = recommender.titles[3]
  _, text, _ = get(f"{url}/v1/items?search={title.upper().replace(' ', '%20')}")
  assert title in json.loads(text)["items"]
  _, text, _ = get(f"{url}/v1/items?limit=3")
  assert json.loads(text)["items"] == [*recommender.titles[:3]]


def test_without_a_catalogue_there_is_nothing_to_recommend(recommender):
  bare = copy.copy(recommender)
  bare.titles = ()
  with running(create_app(bare)) as url:
    status, answer = post(f"{url}/v1/recommend", {"query": "a tent"})
  assert status == 404
  assert "catalogue" in answer["message"]


DEEP = b'{"query": ' + b"[" * 5000 + b"]" * 5000 + b"}"
MANY = [f"title {number}" for number in range(10_000)]
LARGE = {"query": "x" * (middleware.MAX_BODY_BYTES + 1), "documents": ["a"]}


@pytest.mark.parametrize(
  ("status", "body", "words"),
  [
    (413, LARGE, "larger than 2 MiB"),
    (400, DEEP, "depth limit"),
    (400, b'{"query": "\xff", "documents": ["a"]}', "UTF-8"),
    (400, b'{"query": "\\ud800", "documents": ["a"]}', "surrogate"),
    (400, b'{"query": "a"', "not JSON"),
    (422, b"", "must be a JSON object"),
    (422, [], "must be a JSON object"),
    (422, {"query": "a"}, "documents"),
    (422, {"query": "a", "documents": []}, "at least 1"),
    (422, {"query": "a", "documents": MANY}, "at most 1000"),
    (422, {"query": "a", "documents": ["b", "c", "b"]}, r"[2] is the same"),
    (422, {"query": "a", "documents": ["b;", "b"]}, r"[1] is the same"),
    (422, {"query": "a", "documents": ["b", "  "]}, "no title"),
    (422, {"query": "a", "documents": ["b" * 501]}, "documents[0]"),
    (422, {"query": "a", "documents": [{"title": "b"}]}, "documents[0]"),
    (422, {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
    (422, {"query": "a", "documents": ["b"], "top_n": "1"}, "top_n"),
    (422, {"query": "a", "documents": ["b", "q%! " * 39]}, "at most 95"),
    (422, {"query": "", "documents": ["b"]}, "nothing to go by"),
    (422, {"query": "a " * 1999, "documents": ["b"]}, "too long"),
    (422, {"query": "a", "documents": ["b"], "kind": "odd"}, "kind"),
    (422, {"query": "a", "documents": ["b"], "template": "Z9"}, "Z9"),
  ],
)  # fmt: skip
def test_bad_bodies_get_one_sentence(url, status, body, words):
  found, answer = post(f"{url}/v1/rerank", body)
  assert found == status, answer
  assert words.lower() in answer["message"].lower()
  assert answer["message"].endswith(".") and "\n" not in answer["message"]
  assert len(answer["message"]) < 300


def test_other_types_than_json_are_refused(url):
  body = json.dumps({"query": "a", "documents": ["b"]}).encode()
  for media in ("text/plain", "application/x-www-form-urlencoded"):
    status, answer = post(f"{url}/v1/rerank", body, **{"Content-Type": media})
    assert status == 415
    assert "application/json" in answer["message"]


def test_our_own_forms_refuse_what_they_do_not_know(url):
  status, answer = post(f"{url}/v1/recommend", {"query": "a", "histroy": []})
  assert status == 422
  assert "histroy" in answer["message"]
  status, answer = post(f"{url}/v1/recommend", {"x" * 100_000: 1})
  assert status == 422 and len(answer["message"]) < 300


def test_other_paths_and_methods_get_a_sentence_too(url):
  assert get(f"{url}/nothing")[0] == 404
  status, text, _ = get(f"{url}/v1/rerank")
  assert status == 405
  assert json.loads(text)["message"]


def test_many_connections_get_each_their_own_answer(recommender):
  rng = np.random.default_rng(0)
  asked = []
  for wish in ("a tent", "I like boats", "rope") * 20:
    count = int(rng.integers(2, 10))
    drawn = rng.choice(recommender.titles, count + 3, replace=False).tolist()
    asked.append((wish, drawn[:3], drawn[3:]))
  with running(create_app(recommender)) as url:

    def ask(of):
      wish, history, titles = of
      body = {"query": wish, "history": history, "documents": titles}
      return post(f"{url}/v1/rerank", body)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      answers = list(pool.map(ask, asked))
    _, metrics, _ = get(f"{url}/metrics")
  for (wish, history, titles), (status, answer) in zip(
    asked, answers, strict=True
  ):
    assert status == 200
    found = recommender.rank(wish, history=history, candidates=titles)
    by_title = {each.title: each.log_likelihood for each in found.ranking}
    for each in answer["results"]:
      expected = by_title[titles[each["index"]]]
      assert each["log_likelihood"] == pytest.approx(expected, rel=1e-5)
  value = {
    name: float(number)
    for name, number in re.findall(r"^(\w+(?:{.*})?) (\S+)$", metrics, re.M)
  }
  batches = value["instructrec_batch_requests_count"]
  assert value["instructrec_batch_requests_sum"] == 60
  assert batches < 60, "nothing was scored together"
  answered = 'instructrec_requests_total{path="/v1/rerank",status="200"}'
  assert value[answered] == 60
  assert value["instructrec_waiting"] == 0


class SlowRanker:
  """Takes half a second for any batch."""

  name = "slow"
  compiled_shapes = 0

  def score(self, requests):
    time.sleep(0.5)
    return [-np.arange(1.0, 1 + len(r.candidates)) for r in requests]


def slow(recommender):
  copied = copy.copy(recommender)
  copied.ranker = SlowRanker()
  return copied


def test_an_overload_is_refused_and_the_others_are_answered(recommender):
  limits = Limits(max_waiting=4, max_batch=2)
  app = create_app(slow(recommender), limits=limits)
  with running(app) as url:

    def ask(number):
      body = {"query": "a tent", "documents": [f"b {number}", "c"]}
      data = json.dumps(body).encode()
      asked = urllib.request.Request(
        f"{url}/v1/rerank", data, {"Content-Type": "application/json"}
      )
      return get(asked)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
      answers = list(pool.map(ask, range(12)))
    assert get(f"{url}/healthz")[0] == 200
  statuses = [status for status, _, _ in answers]
  assert set(statuses) == {200, 503}
  assert statuses.count(200) >= 4
  refused = next(each for each in answers if each[0] == 503)
  assert refused[2]["retry-after"] == "1"
  assert "come again" in json.loads(refused[1])["message"]


def test_what_takes_too_long_is_given_up(recommender):
  limits = Limits(timeout=0.1)
  app = create_app(slow(recommender), limits=limits)
  with running(app) as url:
    status, answer = post(
      f"{url}/v1/rerank", {"query": "a", "documents": ["b"]}
    )
  assert status == 504
  assert "0.1 seconds" in answer["message"]


def test_who_hangs_up_is_not_scored(recommender):
  slowed = slow(recommender)
  scored = []
  score = slowed.ranker.score
  slowed.ranker.score = lambda requests: (
    scored.extend(requests) or score(requests)
  )
  app = create_app(slowed, limits=Limits(max_batch=1))
  with running(app) as url:
    until(lambda: hasattr(app.state, "service"))
    batcher = app.state.service.batcher
    port = int(url.rsplit(":", 1)[1])
    body = json.dumps({"query": "a tent", "documents": ["b", "c"]})
    connections = []
    for _ in range(4):
      connection = http.client.HTTPConnection("127.0.0.1", port)
      connection.request(
        "POST", "/v1/rerank", body, {"Content-Type": "application/json"}
      )
      connections.append(connection)
      until(lambda: batcher.waiting == len(connections))
    # Two threads score the first two.
    connections[2].close()
    until(lambda: batcher.waiting == 3)
    for stayed in (0, 1, 3):
      assert connections[stayed].getresponse().status == 200
  assert len(scored) == 3


def test_who_hangs_up_in_mid_body_is_no_failure(recommender, capfd):
  with running(create_app(recommender)) as url:
    port = int(url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as connection:
      connection.sendall(
        b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n"
        b'Content-Type: application/json\r\n\r\n{"query":'
      )
    gone = 'instructrec_requests_total{path="/v1/rerank",status="499"} 1.0'
    until(lambda: gone in get(f"{url}/metrics")[1])
  assert "Traceback" not in capfd.readouterr().err


def test_a_failure_of_the_server_is_one_sentence_too(recommender, capfd):
  broken = slow(recommender)
  broken.ranker.score = None
  with running(create_app(broken)) as url:
    status, answer = post(f"{url}/v1/rerank", {"query": "a", "documents": "b"})
    assert status == 422
    status, answer = post(
      f"{url}/v1/rerank", {"query": "a", "documents": ["b"]}
    )
    assert status == 500
    assert answer["message"].endswith(".")
    assert get(f"{url}/healthz")[0] == 200
  assert "Traceback" in capfd.readouterr().err


def until(true) -> None:
  for _ in range(500):
    if true():
      return
    time.sleep(0.01)
  raise AssertionError("never true")


def test_stopping_answers_what_has_been_accepted(recommender):
  app = create_app(slow(recommender))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    with running(app) as url:
      body = {"query": "a tent", "documents": ["b", "c"]}
      tasks = [pool.submit(post, f"{url}/v1/rerank", body) for _ in range(8)]
      until(lambda: hasattr(app.state, "service"))
      until(lambda: app.state.service.batcher.waiting == 8)
    assert [task.result()[0] for task in tasks] == [200] * 8


def test_openapi_describes_every_path(url):
  _, text, _ = get(f"{url}/openapi.json")
  paths = json.loads(text)["paths"]
  assert set(paths) == {
    "/v1/rerank",
    "/v2/rerank",
    "/v1/recommend",
    "/v1/explain",
    "/v1/instructions",
    "/v1/items",
    "/healthz",
  }
  described = paths["/v1/rerank"]["post"]["responses"]
  assert {"200", "400", "413", "422", "503", "504"} <= set(described)
  assert schemas.MAX_DOCUMENTS == 1000
