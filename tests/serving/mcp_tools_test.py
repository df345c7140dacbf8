"""Tests for instructrec_jax/serving/mcp_tools.py, asked by MCP's own client."""

import asyncio
import os
import sys
import types

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.serving.recommender import Recommender

mcp = pytest.importorskip("mcp")


def asked(server, *calls):
  """The tools' names, and the answer to each call."""

  async def ask():
    async with mcp.Client(server) as client:
      tools = (await client.list_tools()).tools
      return {each.name for each in tools}, [
        await client.call_tool(name, said) for name, said in calls
      ]

  return asyncio.run(ask())


@pytest.fixture(scope="module")
def server(recommender):
  from instructrec_jax.serving.mcp_tools import create_server

  return create_server(recommender)


def test_an_assistant_asks_over_standard_input(model_dir, shop, recommender):
  command = mcp.StdioServerParameters(
    command=sys.executable,
    args=[
      *("-m", "instructrec_jax.cli.main", "mcp", "--model", str(model_dir)),
      *("--dataset", str(shop)),
    ],
    env={**os.environ, "XLA_FLAGS": ""},
  )
  names, (found, none) = asked(
    command,
    ("search_catalogue", {"words": "GREY tent", "count": 1}),
    ("search_catalogue", {"words": "no such"}),
  )
  assert names == {"recommend", "rank", "explain", "search_catalogue"}
  expected = [t for t in recommender.titles if "Grey" in t and "Tent" in t]
  assert found.structured_content == {
    "items": expected[:1],
    "total": len(expected),
  }
  assert none.structured_content["total"] == 0


def test_answers_are_the_librarys(server, recommender):
  titles, wish = recommender.titles, "a tent for rain"
  said = {"wish": wish, "history": [titles[0], "Nothing"]}
  best = recommender.recommend(wish, history=said["history"], k=3).titles
  _, (found, only, left, ranked, why) = asked(
    server,
    ("recommend", {**said, "count": 3}),
    ("recommend", {"wish": "a tent, only from Borea", "count": 3}),
    ("recommend", {**said, "count": 2, "refused": [f" {best[0]}"]}),
    ("rank", {**said, "titles": titles[3:8]}),
    ("explain", {"wish": wish, "title": best[0], "against": best[1]}),
  )
  content = found.structured_content
  assert [each["title"] for each in content["ranking"]] == best
  assert content["ranking"][0]["item_ids"]
  assert content["unknown_history"] == ["Nothing"]
  names = [each["title"] for each in only.structured_content["ranking"]]
  assert len(names) == 3 and all("Borea" in name for name in names)
  content = left.structured_content
  assert [each["title"] for each in content["ranking"]] == best[1:]
  expected = recommender.rank(
    wish, history=said["history"], candidates=titles[3:8]
  )
  content = ranked.structured_content
  assert [each["title"] for each in content["ranking"]] == expected.titles
  assert why.structured_content["against"] == best[1]
  reasons = why.structured_content["reasons"]
  assert {each["text"] for each in reasons} <= {*wish.split()}
  assert all(each["times_likelier"] > 0 for each in reasons)


def test_what_cannot_be_answered_is_a_sentence_to_the_assistant(server):
  _, answers = asked(
    server,
    ("recommend", {}),
    ("recommend", {"wish": "a tent", "count": 0}),
    ("explain", {"wish": "a tent", "title": "!"}),
    ("recommend", {"wish": "a tent", "refused": ["Nothing"]}),
  )
  for answer, says in zip(
    answers,
    ("nothing to go by", "greater than", "no title", "'Nothing' is no title"),
    strict=True,
  ):
    assert answer.is_error and says in answer.content[0].text


def test_without_a_catalogue_there_is_only_ranking(recommender, model_dir):
  from instructrec_jax.serving.mcp_tools import create_server

  server = create_server(Recommender.load(model_dir))
  names, (found,) = asked(
    server, ("rank", {"wish": "a tent", "titles": ["A tent", "A rope"]})
  )
  assert names == {"rank"}
  assert len(found.structured_content["ranking"]) == 2
  assert found.structured_content["unknown_history"] == []


# None: it is not there; an older one has other names.
@pytest.mark.parametrize("module", [None, types.ModuleType("mcp.server")])
def test_without_the_package_a_sentence_says_so(
  module, model_dir, monkeypatch, capfd
):
  monkeypatch.setitem(sys.modules, "mcp.server", module)
  monkeypatch.delitem(
    sys.modules, "instructrec_jax.serving.mcp_tools", raising=False
  )
  assert main(["mcp", "--model", str(model_dir)]) == 2
  assert "pip install 'mcp>=2" in capfd.readouterr().err
