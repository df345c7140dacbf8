"""`instructrec annotate` and `statistics`, as one would type them."""

import csv
import json

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.data.prepare import prepare

USERS = 20
# Two of their reviews are the same, and asked about once.
REQUESTS = 6 * USERS - 1


@pytest.fixture
def shop(tmp_path):
  path = tmp_path / "shop"
  prepare(format="synthetic", users=USERS, min_count=0, out=path)
  return str(path)


def _run(capsys, *words) -> str:
  assert main(["annotate", "--dataset", *words]) == 0
  return capsys.readouterr().out


def test_offline_prints_statistics(shop, capsys):
  text = _run(capsys, shop)
  assert f"{USERS} users (0 without a history), {3 * USERS} targets" in text
  assert f"answers of offline offline-rules-3: {6 * USERS}" in text
  found = json.loads(_run(capsys, shop, "--json"))
  assert found["coverage"]["preferences"] == 1
  assert main(["statistics", "--dataset", shop]) == 0
  table = capsys.readouterr().out
  assert (
    f"| - # of user-described preferences | {found['preferences']} |" in table
  )
  assert "| shop    | 20" in table


def test_a_dry_run_sends_nothing_and_needs_no_key(shop, capsys, monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  words = [shop, "--teacher", "openai", "--model", "m", "--dry-run"]
  text = _run(capsys, *words, "--prices", "1", "10")
  assert "requests without an answer" in text and "dollars" in text
  assert "151,638 = 3 x 50,546 users" in text
  assert "101,092 = 2 x 50,546 users" in text
  found = json.loads(_run(capsys, *words, "--json"))
  assert found["requests"] > USERS and found["usd"] is None
  # Of each user and split three texts, of each target two.
  assert found["preferences"] == 3 * 3 * USERS
  assert found["intentions"] == 2 * 3 * USERS
  # The rules cost nothing; their count is the same.
  assert _run(capsys, shop, "--dry-run") in text


def test_wrong_options_are_one_sentence(shop, capsys, monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  ask = ["annotate", "--dataset", shop, "--teacher", "openai"]
  for words, said in (
    (ask, "needs --model"),
    ([*ask, "--model", "m"], "set OPENAI_API_KEY"),
    ([*ask, "--model", "m", "--batch"], "set OPENAI_API_KEY"),
    ([*ask, "--model", "m", "--max-usd", "1"], "needs --prices"),
    (["annotate", "--dataset", f"{shop}x"], "not a dataset folder"),
    ([*ask[:3], "--model", "m"], "--model is of a chat model, and the teacher"),
    ([*ask, "--model", "m", "--gate"], "--gate goes with --judge"),
  ):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_files_for_vllm_go_out_and_come_in(shop, tmp_path, capsys):
  ask = [shop, "--teacher", "openai", "--model", "m"]
  asked = tmp_path / "in.jsonl"
  text = _run(capsys, *ask, "--jsonl-out", str(asked))
  assert text.endswith(f"this run: written {REQUESTS}\n")
  again = ["annotate", "--dataset", *ask, "--jsonl-out", str(asked)]
  assert main(again) == 2
  assert "--force" in capsys.readouterr().err
  assert main([*again, "--force"]) == 0
  capsys.readouterr()
  lines = []
  for line in asked.read_text().splitlines():
    row = json.loads(line)
    fields = row["body"]["response_format"]["json_schema"]["schema"]
    content = json.dumps(dict.fromkeys(fields["properties"], "Some words."))
    message = {"role": "assistant", "content": content}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    response = {"status_code": 200, "body": body}
    lines.append({"custom_id": row["custom_id"], "response": response})
  shards = [str(tmp_path / "in-*.jsonl"), str(tmp_path / "out-*.jsonl")]
  text = _run(capsys, *ask, "--jsonl-out", shards[0])
  assert (tmp_path / "in-00000.jsonl").read_bytes() == asked.read_bytes()
  assert main(["annotate", "--dataset", *ask, "--jsonl-in", shards[1]]) == 2
  assert "no such file" in capsys.readouterr().err
  for number in range(2):
    answered = tmp_path / f"out-{number}.jsonl"
    answered.write_text(
      "".join(json.dumps(line) + "\n" for line in lines[number::2])
    )
  text = _run(capsys, *ask, "--jsonl-in", shards[1])
  assert f"answers of vllm_jsonl m: {6 * USERS}" in text
  assert f"{3 * USERS}" in text


def test_annotations_are_shared(shop, tmp_path, capsys):
  _run(capsys, shop)
  path = str(tmp_path / "a.parquet")
  assert f"{6 * USERS} annotations" in _run(capsys, shop, "--export", path)
  assert main(["annotate", "--dataset", shop, "--export", path]) == 2
  assert "--force" in capsys.readouterr().err
  assert f"{6 * USERS} of {6 * USERS} annotations" in _run(
    capsys, shop, "--import", path
  )


def test_samples_are_printed(shop, capsys):
  _run(capsys, shop)
  lines = _run(capsys, shop, "--show", "--samples", "7").splitlines()
  assert len(lines) == 16
  assert lines[-1].startswith("7 intentions: 0 name a brand or title, 7 ask")
  found = json.loads(_run(capsys, shop, "--show", "--samples", "7", "--json"))
  assert [f"{s['kind']}  {s['text']}" for s in found] == lines[:14]


def test_people_review_a_sheet(shop, tmp_path, capsys):
  _run(capsys, shop)
  path = tmp_path / "sheet.csv"
  _run(capsys, shop, "--sheet", str(path), "--samples", "5")
  rows = list(csv.reader(path.open(newline="")))
  filled = [
    rows[0],
    *(row[:6] + ["yes", "no", "yes", "no"] for row in rows[1:]),
  ]
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(filled)
  table = _run(capsys, shop, "--read-sheet", str(path))
  assert "preference  from_user            100%" in table


def test_a_model_is_asked_and_judges(shop, capsys, monkeypatch, openai_server):
  server = openai_server()
  monkeypatch.setenv("OPENAI_API_KEY", server.key)
  ask = [shop, "--teacher", "openai", "--model", "m", "--base-url", server.url]
  text = _run(capsys, *ask)
  assert f"answers of openai m: {6 * USERS}" in text and server.key not in text
  assert f"this run: answered {REQUESTS}, sent {REQUESTS}, prompt_tok" in text
  paid = server.received.total()
  found = json.loads(_run(capsys, *ask, "--json"))
  assert found["tally"]["sent"] == 0
  assert _run(capsys, *ask).endswith("this run: nothing was open\n")
  dry = _run(capsys, *ask, "--judge", "--samples", "4", "--dry-run")
  assert dry.startswith("4 requests without an answer")
  assert server.received.total() == paid
  table = _run(capsys, *ask, "--judge", "--samples", "4")
  assert server.received.total() == paid + 4
  # The double says yes to everything, and only to intentions: its preferences
  # are in the first person, so there are none to judge.
  assert "intention   reflects             100%" in table
  assert "preference" not in table
