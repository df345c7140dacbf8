"""A run's numbers over time: JSON lines for programs, event files to look at.

MODEL_DIR/metrics.jsonl has a line for each logged step, and
MODEL_DIR/events/ what TensorBoard shows.
"""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from instructrec_jax import processes, storage

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
  """Appends numbers; of several processes all read, and the first writes.

  `last` is the last line before the restored step, empty at first.
  """

  def __init__(self, model_dir: pathlib.Path, *, resumed_step: int):
    """Drops lines that a killed run wrote past its last checkpoint."""
    path = pathlib.Path(model_dir) / METRICS_FILE
    self.last: dict[str, float] = {}
    kept: list[str] = []
    if path.exists():
      kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        # The last line of a killed run may be broken off.
        if line.endswith("\n") and json.loads(line)["step"] <= resumed_step
      ]
      if kept:
        self.last = json.loads(kept[-1])
        del self.last["step"]
    processes.wait("all have read the log")
    self._writes = processes.is_first()
    if not self._writes:
      return
    with storage.staged_file(path) as partial:
      partial.write_text("".join(kept), encoding="utf-8")
    self._lines = path.open("a", encoding="utf-8")
    self._events = tensorboardX.SummaryWriter(
      str(pathlib.Path(model_dir) / "events"), purge_step=resumed_step + 1
    )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs values as of a step."""
    if not self._writes:
      return
    line = {"step": step} | {key: float(v) for key, v in values.items()}
    self._lines.write(json.dumps(line) + "\n")
    self._lines.flush()
    for key, value in values.items():
      self._events.add_scalar(key, float(value), step)

  def close(self) -> None:
    """Flushes both files."""
    if not self._writes:
      return
    self._lines.close()
    self._events.close()
