"""Choose where a model runs, in which engine and in which precision, by rules that were measured, and say why.

Half precision is not always faster on a CPU. With native bfloat16 instructions (AVX512-BF16, AMX) it is two to three
times as fast as float32; without them it is emulated and up to a hundred times slower. So the CPU is asked, and nothing
is assumed.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common.errors import CourseError
from common.settings import resolve_profile

ENGINES = ("auto", "openvino", "torch")
NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Placement:
    """Name where and how a model runs. device: torch's name of it ("cpu", "cuda", "mps"); engine: "openvino" or
    "torch"; precision: "float32", "bfloat16" or "float16"; reason: why, in words."""

    device: str
    engine: str
    precision: str
    reason: str


def native_bfloat16() -> str | None:
    """Return the CPU instruction set that computes in bfloat16 natively, None if there is none."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return next((name for name in NATIVE_BFLOAT16 if capabilities.get(name)), None)


def choose_placement(engine: str = "auto", profile: str | None = None) -> Placement:
    """Return the fastest placement whose vectors agree with float32 (mean cosine at least 0.999) on this machine.

    engine: "auto", or "openvino" / "torch" to insist on one. profile: None is COURSE_PROFILE, else pocket. Raises
    `CourseError` for another name, and if OpenVINO is asked for but not installed.
    """
    if engine not in ENGINES:
        raise CourseError(f"engine {engine!r} is unknown; choose one of {', '.join(ENGINES)}.")
    import torch

    if engine == "openvino" and find_spec("openvino") is None:
        raise CourseError("engine 'openvino' is not installed; run `pip install openvino`, or choose engine='torch'.")
    if engine != "openvino" and torch.cuda.is_available():
        return _on_cuda(torch)
    if engine != "openvino" and torch.backends.mps.is_available():
        return Placement("mps", "torch", "float32", "Apple GPU; half precision was not measured there")
    native = native_bfloat16()
    precision = "bfloat16" if native else "float32"
    why = f"the CPU computes in bfloat16 natively ({native})" if native else "the CPU has no native bfloat16"
    if engine == "auto" and resolve_profile(profile) == "smoke":
        return Placement(
            "cpu", "torch", precision, f"no GPU; {why}; converting for OpenVINO does not pay in profile smoke"
        )
    if engine == "openvino" or (engine == "auto" and _is_x86() and find_spec("openvino") is not None):
        return Placement("cpu", "openvino", precision, f"no GPU; {why}; OpenVINO is faster than torch on such CPUs")
    return Placement("cpu", "torch", precision, f"no GPU; {why}")


def hardware() -> str:
    """Describe the processor, the number of cores this process may use, and the GPU if any, to stand beside timings."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {cores} cores{gpu}"


def _on_cuda(torch) -> Placement:
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Placement("cuda", "torch", "bfloat16", f"{name} computes in bfloat16 natively")
    return Placement("cuda", "torch", "float16", f"{name} has no native bfloat16")


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
