"""A build with a writer of its own; see also tests/seqio_bridge/build_test."""

import collections

from instructrec_jax import storage
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.build import Options, build


def test_all_rows_go_to_the_writer_and_requests_to_the_folder(tmp_path):
  path, written = tmp_path / "data", []

  def write_rows(rows, *, folder, splits):
    written.extend(rows)
    assert not (folder / "instructrec").exists()
    counts = collections.Counter(split for split, _ in written)
    assert counts.keys() <= set(splits)
    return dict(counts)

  prepare(out=path, format="synthetic", users=30, min_count=0)
  manifest = build(
    path,
    write_rows=write_rows,
    write_hard_candidates=lambda folder, **options: None,
    train_vocabulary_size=300,
    options=Options(families=("p1_i0_t3",)),
  )
  saved = storage.read_json(path / "instructions.json")
  assert saved["rows"] == manifest["rows"]
  planned = sum(rows["p1_i0_t3"] for rows in saved["families"].values())
  assert sum(saved["rows"].values()) == len(written) == planned
  requests = manifest["requests"]
  assert requests["sequential_test"]["rows"] == 30
  assert (path / "requests" / "sequential_test.parquet").exists()
  why = requests["sequential_hard_test"]
  assert "no such candidates" in why
  assert str(path) not in why


def test_paraphrases_bring_a_crowds_templates_and_held_out_ones():
  plain, crowd = (
    Options(paraphrases=asked).load_templates() for asked in (False, True)
  )
  assert crowd[: len(plain)] == plain
  assert not any(template.held_out for template in plain)
  # To train on, and to be tested in.
  assert {t.held_out for t in crowd[len(plain) :]} == {False, True}
