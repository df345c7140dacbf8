"""Estimates the memory that a training step needs on each device.

Needs no devices, and takes seconds: shapes alone are counted, without
rematerialisation, with a minimal and with a full one (gin's REMAT_POLICY).
With --compile the step is compiled for as many simulated devices, and XLA's own
figures are shown beside: minutes for the larger sizes, but no more memory.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = "instructrec plan --size xl --mesh 4x2 --batch 128 --memory 80GiB"

# Of more, jax runs out of memory before it has a backend.
_MOST_SIMULATED = 1024
_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _mesh(shape: str) -> str:
  """Checks what `mesh.parse_shape` would, which needs jax."""
  if re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", shape, re.ASCII):
    return ""
  return "data x model devices are needed, such as 4x2"


@dataclass(frozen=True, kw_only=True)
class Options:
  size: Annotated[opt.Size | None, opt.Arg(either="model")] = None
  """of gin/model: small, xl, ..."""
  gin_file: Annotated[opt.GinFiles, opt.Arg(either="model")] = ()
  """or a model of your own, such as a run's config.gin"""
  mesh: Annotated[str, opt.Arg(metavar="DxM", check=_mesh)] = "1x1"
  """devices of data x model"""
  batch: opt.Count = 128
  """packed rows a step, over all devices"""
  input_length: opt.InputLength = 512
  """tokens of a packed row"""
  target_length: opt.TargetLength = 64
  """tokens of its answers"""
  microbatches: opt.Count = 1
  """parts that a batch is split into"""
  zero: bool = False
  """shard parameters and optimizer over the data axis too"""
  zero_optimizer: bool = False
  """shard the optimizer alone"""
  optimizer: Literal["adafactor", "adamw"] = "adafactor"
  """whose state is counted"""
  lora_rank: opt.Count | None = None
  """train adapters of this rank, and freeze the model (default: the model's)"""
  dtype: Literal["float32", "bfloat16"] | None = None
  """of activations (default: the model's)"""
  memory: Annotated[str | None, opt.Arg(metavar="SIZE")] = None
  """of a device, such as 80GiB: does it fit?"""
  remat: Literal["none", "minimal", "full"] | None = None
  """only this one (default: all)"""
  compile: bool = False
  """show XLA's figures beside"""
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError without a model, or if options don't go together."""
    if self.size is None and not self.gin_file:
      raise InputError("name a model: --size, or --gin_file.")
    if self.zero and self.zero_optimizer:
      raise InputError("--zero shards the optimizer too: name one of them.")
    if self.memory is not None:
      parse_memory(self.memory)
    opt.check_gin_files(self.gin_file)


def run(options: Options) -> tuple[Any, str]:
  """Plans; returns a row for each rematerialisation policy."""
  memory = parse_memory(options.memory) if options.memory is not None else None
  from instructrec_jax import mesh as mesh_lib
  from instructrec_jax.cli import gin_config
  from instructrec_jax.seq2seq.config import REMAT_POLICIES
  from instructrec_jax.training import memory_plan, optimizer

  mesh = mesh_lib.abstract_mesh(options.mesh)
  compiled_for = None
  if options.compile:
    # Before anything makes jax look for devices.
    devices = _simulated_devices(mesh.size)
    compiled_for = mesh_lib.make_mesh(options.mesh, devices=devices)
  if options.size is not None:
    config = gin_config.named_size(options.size)
  else:
    config = gin_config.configured_model(options.gin_file)
  if options.dtype is not None:
    config = config.replace(dtype=options.dtype)
  if options.lora_rank is not None:
    config = config.replace(lora_rank=options.lora_rank)
  config.validate()
  transform = getattr(optimizer, options.optimizer)()
  names = ("input_length", "target_length", "microbatches")
  step: dict[str, Any] = {name: getattr(options, name) for name in names}
  step["zero"] = options.zero or (options.zero_optimizer and "optimizer")
  step["batch_size"] = options.batch
  plans = []
  for policy in [options.remat] if options.remat else REMAT_POLICIES:
    model = config.replace(remat_policy=policy)
    plan = memory_plan.plan_memory(model, transform, mesh=mesh, **step)
    row = {"remat": policy, **dataclasses.asdict(plan), "total": plan.total}
    if memory is not None:
      row["fits"] = plan.total <= memory
    if compiled_for:
      row["compiled"] = memory_plan.compile_step(
        model, transform, mesh=compiled_for, **step
      )
      row["planned"] = {name: getattr(plan, name) for name in row["compiled"]}
    plans.append(row)
  return plans, "\n".join(_table(plans, options, config.lora_rank))


def parse_memory(text: str) -> int:
  """Returns the bytes of "80GiB", "24 GB" or "512MiB"."""
  form = r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)"
  match = re.fullmatch(form, text.strip(), re.ASCII)
  size = 0.0
  if match and match[2] in _UNITS:
    size = float(match[1]) * _UNITS[match[2]]
  if not 1 <= size < math.inf:
    raise InputError(
      f"--memory is {text!r:.60}: a number and a unit are needed, such as "
      f"80GiB; units are {', '.join(_UNITS)}."
    )
  return int(size)


def _simulated_devices(count: int) -> list[Any]:
  """Returns CPU devices, if jax has not begun with fewer."""
  if count > _MOST_SIMULATED:
    raise InputError(
      f"--compile simulates at most {_MOST_SIMULATED:,} devices, and the mesh "
      f"has {count:,}: leave it out, the estimate needs none."
    )
  import jax

  try:
    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_platforms", "cpu")
  except RuntimeError:
    # jax is initialised already, in a test for instance.
    pass
  devices = jax.devices("cpu")
  if len(devices) < count:
    raise InputError(
      f"the mesh wants {count} devices, but jax has begun with "
      f"{len(devices)}: run the command in a process of its own, with "
      "XLA_FLAGS unset."
    )
  return devices[:count]


def _table(
  plans: list[dict[str, Any]], options: Options, rank: int
) -> list[str]:
  data, model = map(int, options.mesh.split("x"))
  columns = ("parameters", "optimizer", "gradients", "activations")
  columns += ("batch", "working", "total")
  lines = [
    f"GiB a device, of {data * model} ({data} data x {model} model): "
    f"{options.batch} rows of {options.input_length} + "
    f"{options.target_length} tokens in {options.microbatches} "
    f"part{'s' * (options.microbatches > 1)}, {options.optimizer}"
    f"{', zero' * options.zero}{', zero optimizer' * options.zero_optimizer}"
    f"{f', LoRA of rank {rank}' if rank else ''}\n",
    f"{'remat':<8}" + "".join(f"{name:>13}" for name in columns),
  ]
  for plan in plans:
    sizes = "".join(f"{plan[name] / 2**30:>13.3f}" for name in columns)
    verdict = ""
    if "fits" in plan:
      verdict = f"  {'fits' if plan['fits'] else 'does not fit'}"
      verdict += f" {options.memory}"
    lines.append(f"{plan['remat']:<8}{sizes}{verdict}")
  if options.compile:
    columns = ("planned", "compiled", "compiled/planned")
    lines += ["\nAs compiled by XLA for simulated devices\n"]
    lines += [f"{'remat':<8}{'bytes of':<12}"]
    lines[-1] += "".join(f"{name:>18}" for name in columns)
    for plan in plans:
      for what, compiled in plan["compiled"].items():
        planned = plan["planned"][what]
        lines.append(
          f"{plan['remat']:<8}{what:<12}{planned:>18,}{compiled:>18,}"
          f"{compiled / planned if planned else 1:>18.4f}"
        )
  return lines
