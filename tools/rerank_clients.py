"""Ranks by each client of rerank servers that docs/serving.md names.

  instructrec serve --model exports/quickstart --port 8000
  python3 -m venv /tmp/clients && /tmp/clients/bin/pip install cohere litellm \\
    rerankers langchain-cohere llama-index-postprocessor-cohere-rerank \\
    cohere-haystack
  /tmp/clients/bin/python tools/rerank_clients.py http://127.0.0.1:8000

The clients are as they come from the package index. A line each: its version
and the titles in their order; one that fails, or has another order than plain
HTTP, ends it with status 1.
"""

import argparse
import importlib.metadata
import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

QUERY = "a rope please"
TITLES = ["Borea Tent Orange", "Alder Kayak Grey", "Alder Rope Grey"]


def plain(url: str, key: str) -> list[str]:
  """Ranks without any client."""
  request = urllib.request.Request(
    f"{url}/v1/rerank",
    json.dumps({"query": QUERY, "documents": TITLES}).encode(),
    {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
  )
  with urllib.request.urlopen(request) as answer:
    found = json.load(answer)["results"]
  return [TITLES[each["index"]] for each in found]


def cohere_client(name: str) -> Callable[[str, str], list[str]]:
  """Ranks by cohere's `Client` or `ClientV2`."""

  def rank(url: str, key: str) -> list[str]:
    import cohere

    client = getattr(cohere, name)(api_key=key, base_url=url)
    found = client.rerank(model="any", query=QUERY, documents=TITLES)
    return [TITLES[each.index] for each in found.results]

  return rank


def litellm_form(model: str, path: str = "") -> Callable[[str, str], list[str]]:
  """Ranks by LiteLLM, in the form of one of its providers."""

  def rank(url: str, key: str) -> list[str]:
    import litellm

    found: Any = litellm.rerank(
      model=f"{model}/any",
      query=QUERY,
      documents=TITLES,
      api_base=url + path,
      api_key=key,
      top_n=len(TITLES),
    )
    return [TITLES[each["index"]] for each in found.results]

  return rank


def rerankers(provider: str) -> Callable[[str, str], list[str]]:
  """Ranks by `rerankers`, in the form of one of its providers."""

  def rank(url: str, key: str) -> list[str]:
    from rerankers import Reranker

    ranker: Any = Reranker(
      "any",
      model_type="APIRanker",
      api_provider=provider,
      api_key=key,
      url=f"{url}/v1/rerank",
    )
    found = ranker.rank(query=QUERY, docs=TITLES)
    return [each.text for each in found.results]

  return rank


def langchain(url: str, key: str) -> list[str]:
  """Ranks by langchain-cohere."""
  from langchain_cohere import CohereRerank

  ranker = CohereRerank(model="any", cohere_api_key=key, base_url=url)
  return [TITLES[each["index"]] for each in ranker.rerank(TITLES, QUERY)]


def llama_index(url: str, key: str) -> list[str]:
  """Ranks by llama-index's postprocessor."""
  from llama_index.core.schema import NodeWithScore, TextNode
  from llama_index.postprocessor.cohere_rerank import CohereRerank

  ranker = CohereRerank(
    model="any", api_key=key, base_url=url, top_n=len(TITLES)
  )
  nodes = [NodeWithScore(node=TextNode(text=title)) for title in TITLES]
  found = ranker.postprocess_nodes(nodes, query_str=QUERY)
  return [each.node.get_content() for each in found]


def haystack(url: str, key: str) -> list[str]:
  """Ranks by haystack's component."""
  from haystack import Document
  from haystack.utils import Secret
  from haystack_integrations.components.rankers.cohere import CohereRanker

  ranker = CohereRanker(
    model="any", api_key=Secret.from_token(key), api_base_url=url
  )
  documents = [Document(content=title) for title in TITLES]
  found = ranker.run(query=QUERY, documents=documents)["documents"]
  return [each.content for each in found]


# By the package that is asked for its version.
CLIENTS = (
  ("cohere", "Client", cohere_client("Client")),
  ("cohere", "ClientV2", cohere_client("ClientV2")),
  ("litellm", "cohere/", litellm_form("cohere")),
  ("litellm", "jina_ai/", litellm_form("jina_ai", "/v1")),
  ("litellm", "hosted_vllm/", litellm_form("hosted_vllm")),
  ("litellm", "infinity/", litellm_form("infinity", "/infinity")),
  ("rerankers", "cohere", rerankers("cohere")),
  ("rerankers", "jina", rerankers("jina")),
  ("langchain-cohere", "CohereRerank", langchain),
  ("llama-index-postprocessor-cohere-rerank", "CohereRerank", llama_index),
  ("cohere-haystack", "CohereRanker", haystack),
)


def main() -> None:
  """Asks each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("url", help="where the server is")
  parser.add_argument("--key", default="none", help="one of its keys")
  options = parser.parse_args()
  url = options.url.rstrip("/")
  orders = [tuple(plain(url, options.key))]
  print(f"plain HTTP: {' > '.join(orders[0])}")
  for package, form, rank in CLIENTS:
    version = importlib.metadata.version(package)
    try:
      order = rank(url, options.key)
    except Exception as error:
      order = []
      said = f"{type(error).__name__}: {error}"
    else:
      said = " > ".join(order)
    orders.append(tuple(order))
    print(f"{package} {version}, {form}: {said}", flush=True)
  if len({*orders}) > 1:
    sys.exit("not all rank alike.")


if __name__ == "__main__":
  main()
