"""What devices exchange in a compiled step, read off XLA's program.

Bytes are those that a device sends in a ring, the least that any way of doing
it needs: of n devices that hold a result of b bytes each, an all-reduce sends
2 b (n - 1) / n, an all-gather b (n - 1) / n, a reduce-scatter b (n - 1).
"""

import dataclasses
import math
import re

import numpy as np

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f8": 1, "c64": 8}
# Sent for a byte of the result, by the devices n of a group.
_SENT = {
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "all-gather": lambda n: (n - 1) / n,
  "reduce-scatter": lambda n: n - 1,
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(
  rf"= (.*?) ({'|'.join(_SENT)})(?:-start)?\(.*?"
  r"(?:replica_groups|source_target_pairs)=(mesh\[.*?\}|.*?), \w+="
)
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_CALLED = re.compile(
  r"(?:body|condition|calls|to_apply|\w+_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """An exchange.

  Attributes:
    kind: XLA's name of it.
    largest: bytes of its largest array, on one device.
    sent: bytes that a device sends each time.
    times: a step; an unknown number of trips of a loop counts as one.
    in_loop: whether it is in a loop's body.
    devices: of the first of its groups.
  """

  kind: str
  largest: int
  sent: float
  times: int
  in_loop: bool
  devices: tuple[int, ...]


def collectives(hlo: str) -> list[Collective]:
  """Returns the exchanges of a program, of `compiled.as_text()`."""
  lines: dict[str, list[str]] = {}
  name = entry = ""
  for line in hlo.splitlines():
    if found := _COMPUTATION.match(line):
      name = found[1]
      lines[name] = []
      if line.startswith("ENTRY"):
        entry = name
    elif name:
      lines[name].append(line)
  found_all = []

  def visit(computation: str, times: int, in_loop: bool) -> None:
    for line in lines.get(computation, ()):
      # Lines end in attributes or not; one more ends the groups.
      if found := _COLLECTIVE.search(f"{line}, end="):
        results, kind, groups = found.groups()
        found_all.append(_collective(results, kind, groups, times, in_loop))
        continue
      is_loop = " while(" in line
      trips = _TRIPS.search(line)
      here = times * (int(trips[1]) if is_loop and trips else 1)
      called = _CALLED.findall(line)
      for branches in _BRANCHES.findall(line):
        called += [each.strip(" %") for each in branches.split(",")]
      for each in called:
        visit(each, here, in_loop or is_loop)

  visit(entry, 1, False)
  return found_all


def _collective(
  results: str, kind: str, groups: str, times: int, in_loop: bool
) -> Collective:
  sizes = [
    math.prod(map(int, filter(None, shape.split(","))))
    * (_BYTES.get(kind_ + bits) or int(bits) // 8)
    for kind_, bits, shape in _ARRAY.findall(results)
  ]
  devices = _first_group(groups, is_permute=kind == "collective-permute")
  return Collective(
    kind=kind,
    largest=max(sizes),
    sent=sum(sizes) * _SENT[kind](len(devices)),
    times=times,
    in_loop=in_loop,
    devices=devices,
  )


def _first_group(groups: str, *, is_permute: bool) -> tuple[int, ...]:
  """Reads the first of XLA's groups of devices.

  They are {{0,2},{1,3}}, or [2,2]<=[2,2]T(1,0), numbers as a table transposed,
  or mesh['x'=2,'y'=2] {'x'}, axes of a table of which 'x':(1)2 is a part.
  """
  if groups.startswith("{"):
    every = [
      tuple(map(int, filter(None, group.split(","))))
      for group in re.findall(r"\{([\d,]*)\}", groups[1:-1])
    ]
    moved = [group for group in every if not is_permute or group[0] != group[1]]
    return (moved or every)[0]
  if groups.startswith("["):
    shape, table = groups.split("<=")
    return tuple(_table(table).reshape(_numbers(shape))[0].tolist())
  found = re.fullmatch(
    r"mesh\[(.*?)\](?:, device_ids=\((.*)\))? \{(.*?)\}", groups
  )
  if not found:
    raise ValueError(f"XLA's groups of devices are not understood: {groups}")
  axes, table, used = found.groups()
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
  parts = {
    name: (int(before or 1), int(size or sizes[name]))
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", used)
  }
  shape, taken = [], []
  for name, size in sizes.items():
    before, count = parts.get(name, (1, 1))
    shape += [before, count, size // before // count]
    taken += [0, slice(None), 0]
  places = _table(table or f"[{math.prod(shape)}]").reshape(shape)
  return tuple(places[tuple(taken)].ravel().tolist())


def _table(text: str) -> np.ndarray:
  """Reads [2,4], or [2,4]T(1,0): numbers as a table, transposed."""
  shape, _, order = text.partition("T")
  places = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
  return places.transpose(_numbers(order)) if order else places


def _numbers(text: str) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", text)]
