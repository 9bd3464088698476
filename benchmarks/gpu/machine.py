"""Record the machine, the driver and the versions of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from recording import Context

PACKAGES = ("eatnas-db", "torch", "torchvision", "triton", "numpy", "sqlalchemy", "pydantic", "nvidia-ml-py")
QUERY = "name,driver_version,memory.total,memory.used,clocks.max.sm,compute_mode,mig.mode.current,power.limit"


def record_machine(context: Context) -> None:
    """Record the machine and require that torch sees the GPU."""
    import torch

    facts = context.facts
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    facts.set("versions", {"python": platform.python_version(), **versions})
    facts.set("system", f"{platform.system()} {platform.release()}, {os.cpu_count()} processors")
    if not context.gpu:
        return
    facts.set("cuda", {"torch.version.cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()})
    query = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    facts.set("nvidia-smi", (done.stdout or done.stderr).strip())
    available = torch.cuda.is_available()
    facts.bar("torch sees the GPU", available, "true", met=available)
    if available:
        properties = torch.cuda.get_device_properties(context.device)
        free, total = torch.cuda.mem_get_info(context.device)
        facts.set("gpu", {"name": properties.name, "multiprocessors": properties.multi_processor_count})
        facts.set("memory_gib", {"free": round(free / 2**30, 1), "total": round(total / 2**30, 1)})
