"""Reckons what a training step needs of each device's memory.

Needs no devices, and takes seconds: shapes alone are counted, without
rematerialisation, with a minimal and with a full one (gin's REMAT_POLICY).
With --compile the step is compiled for as many simulated devices, and XLA's own
figures stand beside: minutes for the larger sizes, but no more memory.
"""

import argparse
import dataclasses
import json
import re
from typing import Any

from instructrec_jax.errors import InputError

EXAMPLE = "instructrec plan --size xl --mesh 4x2 --batch 128 --memory 80GiB"

_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--size", help="of gin/model: small, xl, ...")
  model.add_argument(
    "--gin_file",
    action="append",
    metavar="FILE",
    help="or a model of your own, such as a run's config.gin",
  )
  parser.add_argument(
    "--mesh",
    default="1x1",
    help="devices of data x model (default: %(default)s)",
  )
  parser.add_argument(
    "--batch",
    type=int,
    default=128,
    help="packed rows a step, over all devices (default: %(default)s)",
  )
  for name, default, what in (
    ("--input-length", 512, "tokens of a packed row"),
    ("--target-length", 64, "tokens of its answers"),
    ("--microbatches", 1, "parts that a batch is taken in"),
  ):
    parser.add_argument(
      name, type=int, default=default, help=f"{what} (default: %(default)s)"
    )
  parser.add_argument(
    "--zero", action="store_true", help="split the state over data too"
  )
  parser.add_argument(
    "--optimizer", choices=("adafactor", "adamw"), default="adafactor"
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    help="of activations (default: the model's)",
  )
  parser.add_argument(
    "--memory", type=str, help="of a device, such as 80GiB: does it fit?"
  )
  parser.add_argument(
    "--remat",
    choices=("none", "minimal", "full"),
    help="only this one (default: all)",
  )
  parser.add_argument(
    "--compile", action="store_true", help="show XLA's figures beside"
  )
  parser.add_argument("--json", action="store_true", help="print bytes")


def run(args: argparse.Namespace) -> None:
  """Prints a line for each rematerialisation."""
  memory = None if args.memory is None else parse_memory(args.memory)
  for name in ("batch", "input_length", "target_length", "microbatches"):
    if getattr(args, name) < 1:
      raise InputError(
        f"--{name.replace('_', '-')} is {getattr(args, name)}: a positive "
        "number is needed."
      )
  from instructrec_jax import mesh as mesh_lib
  from instructrec_jax.seq2seq.config import REMAT_POLICIES
  from instructrec_jax.training import memory_plan, optimizer

  # Now, while jax has not looked for devices.
  devices = _simulated(mesh_lib.parse_shape(args.mesh)) if args.compile else []
  mesh = mesh_lib.abstract_mesh(args.mesh)
  config = _config(args)
  options: dict[str, Any] = dict(
    batch_size=args.batch,
    input_length=args.input_length,
    target_length=args.target_length,
    microbatches=args.microbatches,
    zero=args.zero,
  )
  transform = getattr(optimizer, args.optimizer)()
  plans = []
  for policy in [args.remat] if args.remat else REMAT_POLICIES:
    of_policy = config.replace(remat_policy=policy)
    plan = memory_plan.plan_memory(of_policy, transform, mesh=mesh, **options)
    line = {"remat": policy, **dataclasses.asdict(plan), "total": plan.total}
    if memory is not None:
      line["fits"] = plan.total <= memory
    if args.compile:
      line["compiled"] = memory_plan.compile_step(
        of_policy,
        transform,
        mesh=mesh_lib.make_mesh(args.mesh, devices=devices),
        **options,
      )
      line["planned"] = {name: getattr(plan, name) for name in line["compiled"]}
    plans.append(line)
  if args.json:
    print(json.dumps(plans))
    return
  _print_table(plans, args)
  if args.compile:
    _print_compiled(plans)


def parse_memory(text: str) -> int:
  """Returns the bytes of "80GiB", "24 GB" or "512MiB".

  Raises:
    InputError: it is no such text.
  """
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip())
  if not match or match[2] not in _UNITS or not float(match[1]):
    raise InputError(
      f"the memory is {text!r}: a number and a unit are needed, such as 80GiB; "
      f"units are {', '.join(_UNITS)}."
    )
  return int(float(match[1]) * _UNITS[match[2]])


def _config(args: argparse.Namespace):
  from instructrec_jax.cli import sizes, train

  if args.size is not None:
    config = sizes.named_size(args.size)
  else:
    config = train.configured_model(args.gin_file)
  if args.dtype is not None:
    config = config.replace(dtype=args.dtype)
  return config.validate()


def _simulated(shape: tuple[int, int]) -> list[Any]:
  """Returns CPU devices, as many as the mesh has.

  Raises:
    InputError: this process has begun with fewer.
  """
  import jax

  count = abs(shape[0]) * shape[1]
  try:
    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_platforms", "cpu")
  except RuntimeError:
    # jax is at work already, in a test for instance.
    pass
  devices = jax.devices("cpu")
  if len(devices) < count:
    raise InputError(
      f"the mesh wants {count} devices, but jax has begun with "
      f"{len(devices)}: run the command in a process of its own, with "
      "XLA_FLAGS unset."
    )
  return devices[:count]


def _print_table(plans: list[dict[str, Any]], args: argparse.Namespace) -> None:
  data, model = map(int, args.mesh.split("x"))
  print(
    f"GiB a device, of {data * model} ({data} data x {model} model): "
    f"{args.batch} rows of {args.input_length} + {args.target_length} tokens "
    f"in {args.microbatches} part{'s' * (args.microbatches > 1)}, "
    f"{args.optimizer}{', zero' if args.zero else ''}\n"
  )
  columns = ("parameters", "optimizer", "gradients", "activations")
  columns += ("batch", "working", "total")
  print(f"{'remat':<8}" + "".join(f"{name:>13}" for name in columns))
  for plan in plans:
    line = "".join(f"{_gib(plan[name]):>13}" for name in columns)
    verdict = ""
    if "fits" in plan:
      verdict = f"  {'fits' if plan['fits'] else 'does not fit'} {args.memory}"
    print(f"{plan['remat']:<8}{line}{verdict}")


def _print_compiled(plans: list[dict[str, Any]]) -> None:
  print("\nAs compiled by XLA for simulated devices\n")
  names = ("planned", "compiled")
  print(
    f"{'remat':<8}{'bytes of':<12}"
    + "".join(f"{name:>18}" for name in (*names, "compiled/planned"))
  )
  for plan in plans:
    for what, compiled in plan["compiled"].items():
      planned = plan["planned"][what]
      print(
        f"{plan['remat']:<8}{what:<12}{planned:>18,}{compiled:>18,}"
        f"{compiled / planned:>18.4f}"
      )


def _gib(count: int) -> str:
  return f"{count / 2**30:.3f}"
