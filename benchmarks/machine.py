"""The machine that measures, and the commit that is measured."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

NOTEWORTHY = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}


@functools.cache
def machine() -> str:
    """Processor, what it can, cores, memory, graphics card, system and Python."""
    model, abilities = _processor()
    can = f" ({', '.join(abilities)})" if abilities else ""
    parts = [f"{model}{can}", f"{cores()} cores", *_memory(), *_card(), platform.system()]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def cuda() -> bool:
    """Whether torch finds a CUDA card."""
    import torch

    return torch.cuda.is_available()


def commit() -> str:
    """The commit that is measured; '+' when the tree differs from it."""
    ask = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def _processor() -> tuple[str, list[str]]:
    """The processor's name, and what it can beyond the least."""
    facts = Path("/proc/cpuinfo")
    if not facts.exists():
        return platform.processor() or platform.machine(), []
    said = {}
    for line in facts.read_text("utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    flags = set(said.get("flags", "").split())
    abilities = [label for flag, label in NOTEWORTHY.items() if flag in flags]
    return said.get("model name", platform.machine()), abilities


def _memory() -> list[str]:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return []
    return [f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"]


def _card() -> list[str]:
    if not cuda():
        return []
    import torch

    return [torch.cuda.get_device_name()]
