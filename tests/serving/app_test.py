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
from instructrec_jax.serving.access import Access
from instructrec_jax.serving.app import Limits, create_app
from instructrec_jax.serving.recommender import Recommender
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


def test_the_model_may_reason_first(url, recommender):
  titles, history = recommender.titles[3:9], recommender.titles[:2]
  body = {"documents": titles, "history": history, "reason": True}
  found = recommender.rank(candidates=titles, history=history, reason=True)
  status, answer = post(f"{url}/v1/rerank", body)
  assert status == 200 and answer["reasoning"] == found.reasoning
  scores = [result["log_likelihood"] for result in answer["results"]]
  expected = [each.log_likelihood for each in found.ranking]
  np.testing.assert_allclose(scores, expected, rtol=1e-5)
  body = {"history": history, "reason": True}
  status, answer = post(f"{url}/v1/recommend", body)
  assert status == 200 and answer["reasoning"] == found.reasoning
  assert "reasoning" not in post(f"{url}/v1/recommend", {"history": history})[1]
  status, answer = post(f"{url}/v1/recommend", {"query": "x", "reason": True})
  assert status == 422 and "give a history" in answer["message"]


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
  with pytest.raises(cohere.errors.UnprocessableEntityError, match="500"):
    client.rerank(query="a", documents=["a" * 501], model="any")


def test_the_same_document_twice_has_the_same_score_twice(url, recommender):
  titles = [*recommender.titles[:3]]
  documents = [titles[0], "", titles[1], f"{titles[0]};", titles[2], " - "]
  body = {"query": "a tent", "documents": documents, "return_documents": True}
  status, answer = post(f"{url}/v1/rerank", body)
  assert status == 200
  found = recommender.rank("a tent", candidates=titles)
  expected = {each.title: each.probability for each in found.ranking}
  results = answer["results"]
  assert sorted(each["index"] for each in results) == [*range(6)]
  for each in results:
    assert each["document"]["text"] == documents[each["index"]]
    title = documents[each["index"]].rstrip(";")
    assert each["relevance_score"] == pytest.approx(
      expected.get(title, 0), rel=1e-5
    )
  # Empty ones are last, without a likelihood.
  assert [each["index"] for each in results[4:]] == [1, 5]
  assert "log_likelihood" not in results[5]
  status, answer = post(
    f"{url}/v2/rerank", {"query": "a tent", "documents": ["", "..."]}
  )
  assert status == 200
  assert [each["relevance_score"] for each in answer["results"]] == [0, 0]


@pytest.mark.parametrize("name", ["truncate", "truncation"])
def test_what_is_too_long_is_cut_if_asked(url, recommender, name):
  title = recommender.titles[0]
  long = ["q%! " * 39, f"{title} " + "word " * 2000, "b" * 1000]
  query = "a tent for rain " * 500
  body = {"query": query, "documents": [*long, title]}
  assert post(f"{url}/v1/rerank", body)[0] == 422
  status, answer = post(f"{url}/v1/rerank", {**body, name: True})
  assert status == 200, answer
  assert len(answer["results"]) == 4
  warnings = answer["meta"]["warnings"]
  assert [each.split()[0] for each in warnings] == [
    *(f"documents[{number}]" for number in range(3)),
    "query",
  ]
  # What the form says, and a document that is short enough, as ever.
  short = {"query": "a tent", "documents": [title]}
  _, answer = post(f"{url}/v1/rerank", {**short, name: True})
  assert "warnings" not in answer["meta"]
  body = {"query": "a", "documents": long[1:2], "max_tokens_per_doc": 10}
  status, answer = post(f"{url}/v1/rerank", body)
  assert status == 200 and answer["meta"]["warnings"]
  with running(create_app(recommender, limits=Limits(truncate=True))) as cuts:
    body = {"query": "a", "documents": long}
    assert post(f"{cuts}/v2/rerank", body)[0] == 200
    assert post(f"{cuts}/v2/rerank", {**body, name: False})[0] == 422


def test_documents_of_fields_are_ranked_by_those_named(url, recommender):
  first, second = recommender.titles[:2]
  documents = [
    {"title": first, "price": 3},
    {"title": second, "text": "not read"},
    {"other": "nothing to read"},
  ]
  body = {"query": "a tent", "documents": documents, "rank_fields": ["title"]}
  status, answer = post(f"{url}/v1/rerank", body)
  assert status == 200
  plain = {"query": "a tent", "documents": [first, second, ""]}
  assert answer["results"] == post(f"{url}/v1/rerank", plain)[1]["results"]
  # The address that clients ask who add but /rerank to theirs.
  assert post(f"{url}/rerank", plain)[1]["results"] == answer["results"]
  # And in Infinity's form.
  plain["return_documents"] = True
  results = post(f"{url}/infinity/rerank", plain)[1]["results"]
  for each in results:
    assert each["document"] == plain["documents"][each["index"]]
  status, answer = post(f"{url}/v1/rerank", {**body, "rank_fields": None})
  assert status == 422 and "rank_fields" in answer["message"]


KEYS = ("a-key-of-the-shop", "another-key")


def test_without_a_key_nothing_is_answered_but_the_page(recommender):
  app = create_app(recommender, access=Access(keys=KEYS))
  ask = {"query": "a tent", "documents": ["b", "c"]}
  with running(app) as url:
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/recommend"):
      for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic a-key-of-the-shop"},
        {"Authorization": "Bearer a-key-of-the-sho"},
        {"X-API-Key": ""},
      ):
        status, answer = post(f"{url}{path}", ask, **headers)
        assert status == 401 and "API key" in answer["message"]
    for path in ("/v1/items", "/v1/models", "/metrics"):
      status, _, headers = get(f"{url}{path}")
      assert status == 401
      assert headers["www-authenticate"] == "Bearer"
    for headers in (
      {"Authorization": f"Bearer {KEYS[0]}"},
      {"authorization": f"bearer {KEYS[1]}"},
      {"X-API-Key": KEYS[0]},
    ):
      assert post(f"{url}/v1/rerank", ask, **headers)[0] == 200
    for path in ("/", "/page/app.js", "/docs", "/healthz", "/openapi.json"):
      assert get(f"{url}{path}")[0] == 200
    schema = json.loads(get(f"{url}/openapi.json")[1])
    assert "HTTPBearer" in schema["components"]["securitySchemes"]
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2(api_key=KEYS[0], base_url=url)
    assert client.rerank(model="any", query="a", documents=["b"]).results


def test_only_pages_of_named_origins_may_ask(recommender):
  origin = "https://shop.example"
  access = Access(keys=KEYS, cors_origins=(origin,))
  with running(create_app(recommender, access=access)) as url:

    def asked(origin, method="OPTIONS"):
      headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
      }
      return get(
        urllib.request.Request(f"{url}/v1/rerank", None, headers, method=method)  # type: ignore[arg-type]
      )

    status, _, headers = asked(origin)
    assert status == 200
    assert headers["access-control-allow-origin"] == origin
    assert (
      "access-control-allow-origin" not in asked("https://other.example")[2]
    )
    # A refusal, too, is to be readable by the page's script.
    status, _, headers = asked(origin, "POST")
    assert status == 401 and headers["access-control-allow-origin"] == origin


def test_a_foreign_page_whose_name_leads_here_reads_nothing(recommender):
  with running(create_app(recommender, access=Access(hosts=()))) as url:
    for path in ("/", "/docs", "/healthz", "/v1/items", "/metrics", "/nothing"):
      asked = urllib.request.Request(
        f"{url}{path}", headers={"Host": "evil.example"}
      )
      status, text, _ = get(asked)  # type: ignore[arg-type]
      assert status == 421
      assert "--allowed-hosts" in json.loads(text)["message"]
      assert get(f"{url}{path}")[0] == (404 if path == "/nothing" else 200)


@pytest.mark.parametrize("prefix", ["", "/recs"])
def test_behind_a_proxy_paths_with_and_without_the_prefix_work(
  recommender, prefix
):
  access = Access(root_path="/recs")
  with running(create_app(recommender, access=access)) as url:
    for path in ("/", "/page/app.js", "/healthz", "/v1/models", "/docs"):
      assert get(f"{url}{prefix}{path}")[0] == 200, path
    body = {"query": "a tent", "documents": ["b", "c"]}
    assert post(f"{url}{prefix}/v1/rerank", body)[0] == 200
    schema = json.loads(get(f"{url}{prefix}/openapi.json")[1])
    assert schema["servers"] == [{"url": "/recs"}]
    metrics = get(f"{url}{prefix}/metrics")[1]
  assert 'path="/v1/rerank"' in metrics


def test_files_of_the_pages_are_named_relatively(url):
  for page in ("/", "/docs"):
    text = get(f"{url}{page}")[1]
    names = re.findall(r'(?:href|src)="([^"]+)"', text)
    names = [name for name in names if not name.startswith("data:")]
    assert names
    for name in names:
      assert not name.startswith("/") and ":" not in name
      assert get(f"{url}/{name}")[0] == 200, name
  assert not re.search(
    r"""["'`]/(v1|page|healthz)""", get(f"{url}/page/app.js")[1]
  )


def test_models_are_listed_as_openais_clients_expect(url, recommender):
  answer = json.loads(get(f"{url}/v1/models")[1])
  assert answer["object"] == "list"
  (model,) = answer["data"]
  assert model["id"] == recommender.name and model["object"] == "model"
  assert abs(model["created"] - time.time()) < 3600


def test_metrics_tell_of_user_states(model_dir):
  kept = Recommender.load(model_dir, user_state_bytes=1 << 26)
  ask = {"query": "a tent", "history": ["a"], "documents": ["b", "c"]}
  ask["template"] = "C04"
  with running(create_app(kept)) as url:
    for documents in (["b", "c"], ["d"]):
      body = {**ask, "documents": documents}
      assert post(f"{url}/v1/rerank", body)[0] == 200
    text = get(f"{url}/metrics")[1]
  for name in ("hits", "misses", "num_bytes"):
    found = re.search(rf"^instructrec_user_states_{name} (\S+)$", text, re.M)
    assert found and float(found[1]) > 0, name


def test_metrics_tell_of_the_process(url):
  text = get(f"{url}/metrics")[1]
  for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds"):
    assert re.search(rf"^process_{name} \S+$", text, re.M), name


def test_each_request_is_a_line_of_json_without_its_words(recommender, capfd):
  with running(create_app(recommender, log_requests=True)) as url:
    secret = {"query": "a secret tent", "documents": ["b", "c"]}
    post(f"{url}/v1/rerank", secret, **{"X-Request-ID": "shop-17"})
    forged = {"X-Request-ID": 'x" , "y'}
    post(f"{url}/v1/rerank", {"query": "a"}, **forged)
    asked = urllib.request.Request(f"{url}/v1/items?search=secret")
    answered = get(asked)[2]["x-request-id"]  # type: ignore[arg-type]
  text = capfd.readouterr().err
  first, second, third = map(json.loads, text.strip().splitlines())
  assert "secret" not in text and "forged" not in text
  assert first["method"] == "POST" and first["path"] == "/v1/rerank"
  assert first["status"] == 200 and 0 < first["seconds"] < 60
  assert first["received_bytes"] == len(json.dumps(secret))
  assert first["sent_bytes"] > 0 and first["client"] == "127.0.0.1"
  assert first["request_id"] == "shop-17"
  assert second["status"] == 422 and len(second["request_id"]) == 32
  assert third["request_id"] == answered
  assert first["time"].endswith("+00:00")


def test_two_lengths_of_one_body_are_refused(url):
  port = int(url.rsplit(":", 1)[1])
  with socket.create_connection(("127.0.0.1", port)) as connection:
    connection.settimeout(30)
    connection.sendall(
      b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n"
      b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
      b"0\r\n\r\n"
    )
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    while connection.recv(1 << 16):
      pass


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
  assert json.loads(text)["total"] == len(recommender.titles)
  _, text, _ = get(f"{url}/v1/items?limit=3&offset=2")
  assert json.loads(text)["items"] == [*recommender.titles[2:5]]
  # All words, in any order.
  words = "%20".join(reversed(title.split()))
  assert title in json.loads(get(f"{url}/v1/items?search={words}")[1])["items"]


def test_titles_that_the_catalogue_lacks_are_named(url, recommender):
  known = recommender.titles[0]
  body = {"query": "a tent", "history": [known, "Unheard Of"]}
  for path in ("/v1/recommend", "/v1/instructions"):
    _, answer = post(f"{url}{path}", body)
    assert answer["unknown_history"] == ["Unheard Of"]
  body = {"query": "a tent", "documents": [known, "Unheard Of", "", "Other"]}
  assert post(f"{url}/v1/rerank", body)[1]["unknown_documents"] == 2


def test_a_probability_does_not_depend_on_how_many_are_listed(url):
  first = []
  for top_n in (1, 3, 10, 100):
    body = {"query": "a tent", "top_n": top_n}
    results = post(f"{url}/v1/recommend", body)[1]["results"]
    first.append(results[0]["relevance_score"])
    chances = [each["relevance_score"] for each in results]
    assert chances == sorted(chances, reverse=True) and sum(chances) <= 1
    for each in results:
      assert each["relevance_score"] == pytest.approx(
        np.exp(each["log_likelihood"])
      )
  assert first == pytest.approx([first[0]] * 4, rel=1e-5)
  # Beside other documents it is a share among them, whatever is returned.
  shares = []
  for top_n in (1, 4):
    documents = ["a tent", "a rope", "a stove", "a kayak"]
    body = {"query": "a tent", "documents": documents, "top_n": top_n}
    results = post(f"{url}/v1/rerank", body)[1]["results"]
    shares.append(results[0]["relevance_score"])
  assert shares[0] == pytest.approx(shares[1], rel=1e-5)
  assert sum(each["relevance_score"] for each in results) == pytest.approx(1)


def test_examples_have_what_they_wish_for(url, recommender):
  found = json.loads(get(f"{url}/v1/examples")[1])
  assert set(found["history"]) <= set(recommender.titles)
  for wish in found["wishes"]:
    best = recommender.recommend(wish, k=3).ranking
    word = wish.removesuffix(" please").split()[-1]
    hits = [word in each.title.lower() for each in best]
    assert sum(hits) >= 2


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
    (422, {"query": "a", "documents": ["b" * 501]}, "documents[0]"),
    (422, {"query": "a", "documents": [{"title": "b"}]}, "documents[0]"),
    (422, {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
    (422, {"query": "a", "documents": ["b"], "top_n": "1"}, "top_n"),
    (422, {"query": "a", "documents": ["b", "q%! " * 39]}, "at most 95"),
    (422, {"query": "a" * 4001, "documents": ["b"]}, "at most 4,000"),
    (422, {"query": "a", "documents": ["b"], "truncate": "yes"}, "truncate"),
    (422, {"query": "a", "documents": [3]}, "documents[0]"),
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


@pytest.mark.parametrize(
  ("path", "body", "words"),
  [
    ("recommend", {"qury": "a"}, "no field qury; there are query, history"),
    ("recommend", {"x" * 999: "a"}, f"no field {'x' * 80}; there are query"),
    (
      "chat/recommend",
      {"query": "a", "turns": [{"said": "b"}]},
      "turns[0]: there is no field said; there are query, refused, chosen",
    ),
  ],
)
def test_a_field_that_is_not_there_is_told_with_those_that_are(
  url, path, body, words
):
  found, answer = post(f"{url}/v1/{path}", body)
  assert found == 422
  assert words in answer["message"]


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
  status, text, _ = get(f"{url}/nothing")
  assert status == 404
  assert "nothing at this path" in json.loads(text)["message"]
  status, text, headers = get(f"{url}/v1/rerank")
  assert status == 405 and headers["allow"] == "POST"
  assert "asked with POST" in json.loads(text)["message"]


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
    "/v1/chat/recommend",
    "/v1/explain",
    "/v1/instructions",
    "/v1/items",
    "/v1/models",
    "/v1/examples",
    "/healthz",
  }
  described = paths["/v1/rerank"]["post"]["responses"]
  assert {"200", "400", "413", "422", "503", "504"} <= set(described)
  assert schemas.MAX_DOCUMENTS == 1000
