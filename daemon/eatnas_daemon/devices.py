"""Which devices may be used, and why not: a decision over what was seen, and manners towards those who share them."""

from __future__ import annotations

import difflib
import errno
import fcntl
import json
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from eatnas_daemon.nvml import Card, Nvml
from eatnas_db.errors import ConflictError, NotFoundError

CPU: Final = "cpu"
GIB: Final = 1 << 30
UNEXPLAINED_BYTES: Final = GIB
"""Memory that a driver keeps for itself; and what a worker's context takes beside what it asked for."""
BUSY_PERCENT: Final = 20
MPS: Final = "nvidia-cuda-mps"
UNSEEN: Final = "unseen"
"""What `--allow` calls memory in use by processes that the driver does not show."""
SHORTEST_WAIT: Final = 30.0
LONGEST_WAIT: Final = 3600.0
ANSWER_SECONDS: Final = 15.0
"""So long a command waits for a driver that says nothing."""
# Not tempfile's choice: TMPDIR may be a folder of one user's own, where another's daemon would not look.
LOCKS: Final = Path("/tmp")  # noqa: S108
QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux tells a container how many microseconds of all cores together it may take in how many."""
LOOKS: Final = 20
LOOK_SECONDS: Final = 0.01


class Cause(StrEnum):
    """What a verdict rests on."""

    FREE = "free"
    BROKEN = "broken"
    UNWANTED = "unwanted"
    REFUSED = "refused"
    LOCKED = "locked"
    FOREIGN = "foreign"
    FULL = "full"
    BUSY = "busy"
    MEMORY = "memory"
    WAITING = "waiting"
    PAUSED = "paused"
    ASIDE = "aside"


class Policy(StrEnum):
    """What to do when somebody else comes to a device in use."""

    YIELD = "yield"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process as this machine knows it. What it does not tell to strangers is None."""

    owner: str | None = None
    name: str | None = None
    since: float | None = None
    polite: bool = False
    """Whether it is a worker of an eatnas-db, which keeps to the same manners."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a device."""

    pid: int
    kind: str
    """`compute`, or `graphics` for one that only draws."""
    used_bytes: int | None = None
    identity: Identity | None = None
    """None: there is no such process here, as in a container that is told the host's numbers."""

    @property
    def is_shared(self) -> bool:
        """Whether it stands for others: a server of MPS, which computes for all its clients, ours too."""
        return self.identity is not None and (self.identity.name or "").startswith(MPS)

    def __str__(self) -> str:
        who = self.identity or Identity()
        return _printable(f"{who.name or 'a process'} (pid {self.pid}, {who.owner or 'owner unknown'})")


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The eatnas-db daemon that holds a device, as far as its lock file says."""

    user: str | None = None
    pid: int | None = None
    trouble: str | None = None
    """Why its lock file does not say."""

    def __str__(self) -> str:
        return self.trouble or f"{self.user or 'owner unknown'}, pid {self.pid or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Processor:
    """The cores and the memory of this machine."""

    cores: int
    load: float
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """A device and all that was seen of it."""

    uuid: str
    kind: str
    """`cuda` or `cpu`."""
    name: str
    index: int | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    utilisation: int | None = None
    holders: tuple[Holder, ...] = ()
    silent: bool = False
    """Whether the driver does not say who holds it."""
    mig: bool = False
    prohibited: bool = False
    exclusive: bool = False
    """Whether one process at a time may compute on it."""
    memory_errors: int | None = None
    locked_by: LockOwner | None = None
    trouble: str | None = None
    cores: int = 0
    load: float = 0.0

    @property
    def used_bytes(self) -> int:
        """Memory in use, by whomever."""
        return self.total_bytes - self.free_bytes

    @property
    def label(self) -> str:
        """How a sentence calls it."""
        return "processor" if self.kind == CPU else f"GPU {self.index} ({self.name}, {self.uuid})"

    @property
    def blindness(self) -> str | None:
        """Why its processes cannot be told apart, so that memory has to be compared instead."""
        computing = [one for one in self.holders if one.kind == "compute"]
        if self.silent:
            return "the driver does not say which processes use it"
        if any(one.is_shared for one in computing):
            return "its processes share it through NVIDIA's MPS and are not told apart"
        if any(one.identity is None for one in computing):
            return "the driver shows process numbers that are not of this container"
        if not self.holders and self.used_bytes > UNEXPLAINED_BYTES:
            return "memory is in use and the driver shows no process, as in a container"
        return None


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What the user has said about devices. They are known by UUID."""

    chosen: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()
    visible: frozenset[str] | None = None
    """What CUDA_VISIBLE_DEVICES leaves, as a batch system sets it."""
    numbered: bool = False
    """Whether it has numbers, and those of CUDA may not be the driver's."""
    parts: bool = False
    """Whether it names parts of devices in MIG mode."""
    max_per_device: int | None = None
    allowed: frozenset[str] = frozenset()
    """Users and programs that do not count as foreign."""
    processor: bool = True
    """Whether the processor trains too where it was not named."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether one more worker may start on a device, and why, in words."""

    free: bool
    reason: str
    cause: Cause = Cause.FREE
    foreign: tuple[Holder, ...] = ()


PROCESSOR: Final = DeviceSnapshot(CPU, CPU, "processor")
"""The processor, as a slot knows it that nobody has probed."""


class Randomness(Protocol):
    """A stream of draws, as `eatnas_db.domain.rng.Chance` is one."""

    def bits(self) -> int:
        """A whole number, uniform over 64 bits."""
        ...


# What there is


def who_is(pid: int) -> Identity | None:
    """A process of this machine, or None when there is none of this number."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            owner, name, since = process.username(), process.name(), process.create_time()
            with suppress(psutil.AccessDenied):
                return Identity(owner, name, since, polite=_is_worker(process.cmdline()))
            return Identity(owner, name, since)
    except psutil.AccessDenied:
        return Identity()
    except psutil.NoSuchProcess:
        # Where /proc is mounted with hidepid, a stranger's process is there all the same.
        with suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except (ProcessLookupError, OverflowError):
                return None
        return Identity()


def _is_worker(arguments: Sequence[str]) -> bool:
    return any(argument.startswith("eatnas_training.") for argument in arguments)


def measure_processor(quota: Path = QUOTA) -> Processor:
    """The cores this process may use, in a container its share of them, the load of the last minute, and the memory."""
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):  # it may be missing, or "max"
        allowed, period = map(int, quota.read_text().split())
        cores = max(1, min(cores, allowed // period))
    return Processor(cores, psutil.getloadavg()[0], memory.total, memory.available)


def probe(
    nvml: Nvml,
    processes: Callable[[int], Identity | None] = who_is,
    cpu: Callable[[], Processor] = measure_processor,
    folder: Path = LOCKS,
) -> list[DeviceSnapshot]:
    """Look at every device, the processor last."""
    seen = [_probed(card, processes, holder_of(card.uuid, folder)) for card in nvml.cards()]
    return [*seen, processor_now(cpu)]


def look_once(nvml: Nvml, patience: float = ANSWER_SECONDS) -> list[DeviceSnapshot]:
    """The same, for as long as `patience` allows: of a driver that hangs, `nvml.trouble` says so."""
    lookout = DeviceMonitor(lambda: probe(nvml), patience=patience)
    seen = lookout.seen()
    lookout.close()
    if not seen:
        nvml.trouble = f"the NVIDIA driver has not answered for {patience:g} s"
    return seen or [processor_now()]


def processor_now(cpu: Callable[[], Processor] = measure_processor) -> DeviceSnapshot:
    """The processor, looked at."""
    now = cpu()
    return replace(PROCESSOR, total_bytes=now.total_bytes, free_bytes=now.free_bytes, cores=now.cores, load=now.load)


def _probed(card: Card, processes: Callable[[int], Identity | None], locker: LockOwner | None) -> DeviceSnapshot:
    clients = card.clients or ()
    return DeviceSnapshot(
        uuid=card.uuid,
        kind="cuda",
        name=card.name,
        index=card.index,
        total_bytes=card.total_bytes,
        free_bytes=card.free_bytes,
        utilisation=card.utilisation,
        holders=tuple(Holder(one.pid, one.kind, one.used_bytes, processes(one.pid)) for one in clients),
        silent=card.clients is None,
        mig=card.mig,
        prohibited=card.prohibited,
        exclusive=card.exclusive,
        memory_errors=card.memory_errors,
        locked_by=locker,
        trouble=card.trouble,
    )


# What may be used


def judge(
    probed: DeviceSnapshot,
    wishes: DeviceOptions,
    own_pids: Collection[int] = (),
    needs_bytes: int = 0,
    *,
    own_bytes: int | None = None,
) -> Availability:
    """Whether one more worker of ours may start there. `own_pids` are those of our workers on this device.

    `own_bytes` is what these say they hold; it counts where the driver cannot tell.
    """
    unwanted = _unwanted(probed, wishes)
    if unwanted is not None:
        return Availability(False, unwanted, Cause.UNWANTED)
    invisible = _invisible(probed, wishes)
    if invisible is not None and not (probed.mig and wishes.parts):
        return Availability(False, invisible, Cause.UNWANTED)
    if probed.trouble is not None:
        return Availability(False, probed.trouble, Cause.BROKEN)
    if probed.mig:
        off = f"`nvidia-smi -i {probed.uuid} -mig 0` turns it off"
        return Availability(False, f"it is in MIG mode, which is not supported yet; {off}", Cause.REFUSED)
    if probed.prohibited:
        return Availability(
            False, "an administrator has shut it for computing (compute mode prohibited)", Cause.REFUSED
        )
    if probed.locked_by is not None:
        return Availability(False, f"another eatnas-db daemon holds it ({probed.locked_by})", Cause.LOCKED)
    if probed.kind != CPU:
        taken = _taken(probed, wishes, own_pids, own_bytes)
        if taken is not None:
            return taken
    if probed.exclusive and own_pids:
        return Availability(False, "it takes one process at a time (compute mode exclusive)", Cause.FULL)
    limit = wishes.max_per_device
    if limit is not None and len(own_pids) >= limit:
        return Availability(False, f"--max-per-device {limit} is reached", Cause.FULL)
    if needs_bytes > probed.free_bytes:
        needed = f"{in_gib(needs_bytes)} of memory are needed and {in_gib(probed.free_bytes)} are free"
        return Availability(False, needed, Cause.MEMORY)
    return Availability(True, _praise(probed))


def _unwanted(probed: DeviceSnapshot, wishes: DeviceOptions) -> str | None:
    if probed.uuid in wishes.excluded:
        return "--exclude names it"
    if wishes.chosen is not None:
        return None if probed.uuid in wishes.chosen else "--devices does not name it"
    if probed.kind == CPU and not wishes.processor:
        return "there are GPUs; `--devices` has to name `cpu` for it to train too"
    return None


def _invisible(probed: DeviceSnapshot, wishes: DeviceOptions) -> str | None:
    if probed.kind == CPU or wishes.chosen is not None:
        return None
    if wishes.numbered:
        return (
            "CUDA_VISIBLE_DEVICES has numbers, which are not the driver's where GPUs are not alike: "
            "give UUIDs there or with `--devices`, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    if wishes.visible is not None and probed.uuid not in wishes.visible:
        return "CUDA_VISIBLE_DEVICES leaves it out"
    return None


def _taken(
    probed: DeviceSnapshot, wishes: DeviceOptions, own_pids: Collection[int], own_bytes: int | None
) -> Availability | None:
    computing = [one for one in probed.holders if one.kind == "compute" and one.pid not in own_pids]
    told = [one for one in computing if one.identity is not None and not one.is_shared]
    foreign = tuple(one for one in told if not _is_allowed(one, wishes))
    if foreign:
        more = f", and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        return Availability(False, f"{foreign[0]} computes on it{more}", Cause.FOREIGN, foreign)
    blindness = probed.blindness
    if blindness is not None and UNSEEN not in wishes.allowed:
        others = probed.used_bytes - _our_bytes(probed, own_pids, own_bytes)
        if others > UNEXPLAINED_BYTES * (1 + len(own_pids)):
            ours = ", more than our workers hold" if own_pids else ""
            used = f"{in_gib(probed.used_bytes)} are in use{ours}"
            anyway = f"`--allow {UNSEEN}` uses it all the same"
            return Availability(False, f"{blindness}; so memory decides, and {used} ({anyway})", Cause.FOREIGN)
    # What is ours, or is allowed, keeps it busy rightly.
    excused = bool(own_pids) or (UNSEEN in wishes.allowed if blindness is not None else bool(computing))
    if probed.utilisation is not None and probed.utilisation > BUSY_PERCENT and not excused:
        return Availability(False, f"it is {probed.utilisation}% busy, and not with anything of ours", Cause.BUSY)
    return None


def _our_bytes(probed: DeviceSnapshot, own_pids: Collection[int], own_bytes: int | None) -> int:
    if own_bytes is not None:
        return own_bytes
    return sum(one.used_bytes or 0 for one in probed.holders if one.pid in own_pids)


def _is_allowed(holder: Holder, wishes: DeviceOptions) -> bool:
    who = holder.identity or Identity()
    return bool({who.owner, who.name} & wishes.allowed)


def _praise(probed: DeviceSnapshot) -> str:
    memory = f"{in_gib(probed.free_bytes)} of {in_gib(probed.total_bytes)} of memory free"
    if probed.kind == CPU:
        return f"{probed.cores} cores, load {probed.load:.1f}, {memory}"
    busy = "" if probed.utilisation is None else f", {probed.utilisation}% busy"
    blind = "" if probed.blindness is None else f"; {probed.blindness}, so memory decides"
    errors = f"; {probed.memory_errors} memory errors since the driver was loaded" if probed.memory_errors else ""
    return memory + busy + blind + errors


def cpu_slots(probed: DeviceSnapshot, own_workers: int = 0, needs_bytes: int = 0) -> int:
    """How many workers the processor has room for: a core each beside what others load it with, and memory."""
    others = max(0.0, probed.load - own_workers)
    by_cores = max(1, probed.cores - int(others))
    if needs_bytes <= 0:
        return by_cores
    return min(by_cores, own_workers + probed.free_bytes // needs_bytes)


def worker_environment(device: DeviceSnapshot) -> dict[str, str]:
    """What a worker's environment says so that it sees this device and no other GPU, and computes as recipes say."""
    return {"CUDA_VISIBLE_DEVICES": "" if device.kind == CPU else device.uuid, "NVIDIA_TF32_OVERRIDE": "0"}


def torch_device(device: DeviceSnapshot) -> str:
    """What torch calls it within that environment."""
    return CPU if device.kind == CPU else "cuda:0"


def usable_gpus(seen: Sequence[DeviceSnapshot], wishes: DeviceOptions) -> int:
    """How many GPUs a daemon may ever use; those that are somebody else's now will be free again."""
    never = {Cause.UNWANTED, Cause.BROKEN, Cause.REFUSED}
    return sum(one.kind != CPU and judge(one, wishes).cause not in never for one in seen)


def slots_here(seen: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> int:
    """How many trainings a daemon would have here at a time: one on each GPU it may use, or one on each core."""
    wishes = wishes_of(seen, environment=environment)
    return usable_gpus(seen, wishes) or max(1, seen[-1].cores if wishes.processor else 0)


def first_free(seen: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> DeviceSnapshot:
    """Where a training would begin now: on the first GPU that is free, or else on the processor, which comes last."""
    wishes = wishes_of(seen, environment=environment)
    return next((one for one in seen if judge(one, wishes).free), seen[-1])


def misplaced(
    uuid: str, pid: int, block_bytes: int, before: Sequence[DeviceSnapshot], after: Sequence[DeviceSnapshot]
) -> str | None:
    """What is wrong when a worker has allocated a block on `uuid` between two looks; None when it is seen there."""
    for device in after:
        if device.uuid != uuid and any(one.pid == pid and one.identity is not None for one in device.holders):
            return f"a worker for {uuid} came up on {device.uuid}"
    free = {device.uuid: device.free_bytes for device in before}
    there = next((device for device in after if device.uuid == uuid), None)
    if there is None or uuid not in free:
        return f"{uuid} is gone"
    if any(one.pid == pid for one in there.holders) or free[uuid] - there.free_bytes >= block_bytes:
        return None
    return f"a worker allocated {in_gib(block_bytes)} and {uuid} does not show it"


def _soon(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"within {minutes} minutes" if minutes > 1 else "within a minute"


def in_gib(size: int) -> str:
    """A size of memory as people write it."""
    return f"{size / GIB:.1f} GiB"


def _printable(text: str) -> str:
    """Without the terminal codes that a stranger's program may have for a name."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


# What is wished


def wishes_of(
    probed: Sequence[DeviceSnapshot],
    *,
    devices: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_per_device: int | None = None,
    allowed: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> DeviceOptions:
    """Understand what the user has said: indices, UUIDs, their beginnings, or `cpu`, separated by commas.

    Raises `NotFoundError` for a device that is not there, `ConflictError` for wishes that leave nothing.
    """
    chosen = frozenset(named(word, probed, "--devices") for word in _words(devices))
    excluded = frozenset(named(word, probed, "--exclude") for word in _words(exclude))
    if both := chosen & excluded:
        raise ConflictError(f"both --devices and --exclude name {', '.join(sorted(both))}")
    if excluded >= {device.uuid for device in probed}:
        raise ConflictError("--exclude leaves no device")
    if max_per_device is not None and max_per_device < 1:
        raise ConflictError(f"--max-per-device {max_per_device}: at least 1")
    return DeviceOptions(
        chosen=chosen or None,
        excluded=excluded,
        visible=_visible(probed, environment or {}),
        numbered=_numbered(probed, environment or {}),
        parts="MIG-" in (environment or {}).get("CUDA_VISIBLE_DEVICES", ""),
        max_per_device=max_per_device,
        allowed=frozenset(_words(allowed)),
        processor=all(device.kind == CPU or device.uuid in excluded for device in probed) or _hidden(environment or {}),
    )


def _words(texts: Sequence[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _matching(word: str, probed: Sequence[DeviceSnapshot]) -> list[str]:
    exact = [device.uuid for device in probed if word in (device.uuid, str(device.index))]
    return exact or [device.uuid for device in probed if device.kind != CPU and device.uuid.startswith(word)]


def named(word: str, probed: Sequence[DeviceSnapshot], option: str) -> str:
    """The UUID of the device that a user calls so; `option`: where. Raises `NotFoundError` that names the nearest."""
    found = _matching(word, probed)
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(f"{option} {word}: that is how {', '.join(found)} begin; write more of it")
    indices = [device.index for device in probed if device.index is not None]
    if word.isdigit() and indices:
        hint = f"; did you mean {min(indices, key=lambda index: (abs(index - int(word)), index))}?"
    else:
        near = difflib.get_close_matches(word, [device.uuid for device in probed], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(CPU if device.kind == CPU else f"{device.index} ({device.uuid})" for device in probed)
    raise NotFoundError(f"{option} {word}: there is no such device{hint} (known: {known})")


def _numbered(probed: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES has numbers where CUDA, which goes by speed, may have others than the driver."""
    words = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or not any(word.strip().isdigit() for word in words):
        return False
    return len({device.name for device in probed if device.kind != CPU and device.trouble is None}) > 1


def _hidden(environment: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES says that there is to be no GPU, as users and Slurm write it."""
    return environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")


def _visible(probed: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> frozenset[str] | None:
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    visible: list[str] = []
    for word in text.split(","):
        found = _matching(word.strip(), probed) if word.strip() else []
        if len(found) != 1:
            # CUDA itself reads no further than the first that it does not know.
            break
        visible += found
    return frozenset(visible)


# Who holds it: one lock file for each device, dropped by the system when its daemon dies


class Hold:
    """This daemon's lock on a device, until it is released or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def refresh(self) -> None:
        """Keep away those who tidy the temporary folder."""
        os.utime(self._descriptor)

    def release(self) -> None:
        """Give the device back."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def lock_file(uuid: str, folder: Path = LOCKS) -> Path:
    """Where a device's lock lies."""
    return folder / f"eatnas-db-device-{uuid}.lock"


def hold(uuid: str, folder: Path = LOCKS) -> Hold | None:
    """Take a device, or None when somebody else holds it. Raises `ConflictError` where its lock cannot be used."""
    path = lock_file(uuid, folder)
    for _ in range(LOOKS):
        try:
            descriptor = _open(path)
        except OSError as error:
            raise ConflictError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                _sign(descriptor)
                return Hold(descriptor)
        except FileNotFoundError:
            pass  # tidied away between two steps
        except BlockingIOError:
            # Perhaps somebody only looks who holds it, which takes a moment's lock.
            time.sleep(LOOK_SECONDS)
        os.close(descriptor)
    return None


def holder_of(uuid: str, folder: Path = LOCKS) -> LockOwner | None:
    """The daemon that holds a device, if one does."""
    path = lock_file(uuid, folder)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return LockOwner(trouble=f"{path} cannot be opened: {error.strerror}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signature(os.pread(descriptor, 4096, 0))
    finally:
        os.close(descriptor)
    return None


def _open(path: Path) -> int:
    # Never O_CREAT on a file that is there: the kernel refuses it for another user's in a sticky folder.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # whatever the umask: other users' daemons lock it too
                return descriptor
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a plain file", str(path))


def _sign(descriptor: int) -> None:
    text = json.dumps({"user": psutil.Process().username(), "pid": os.getpid()})
    with suppress(OSError):  # a full disk costs the name, not the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _signature(content: bytes) -> LockOwner:
    with suppress(ValueError):
        signed: Any = json.loads(content)
        if isinstance(signed, dict) and isinstance(signed.get("pid"), int):
            return LockOwner(_printable(str(signed.get("user")))[:64], signed["pid"])
    return LockOwner()


# Manners


def should_yield(policy: Policy, probed: DeviceSnapshot, verdict: Availability, own_pids: Collection[int]) -> bool:
    """Whether our workers leave a device because somebody else is there.

    Of two daemons with these manners the one that came later leaves; where that cannot be told, both do.
    """
    if policy is Policy.STAY or verdict.cause is not Cause.FOREIGN or not own_pids:
        return False
    ours = [one.identity.since for one in probed.holders if one.pid in own_pids and one.identity is not None]
    came = min((since for since in ours if since is not None), default=None)
    return not verdict.foreign or any(not _gives_way(one, came) for one in verdict.foreign)


def _gives_way(other: Holder, came: float | None) -> bool:
    who = other.identity or Identity()
    return who.polite and came is not None and who.since is not None and came < who.since


def backoff(before: int, used_seconds: float, chance: Randomness) -> tuple[int, float]:
    """How many times in a row we have left a device now, and for how many seconds we stay away.

    Doubling and random, so that two who left at once do not come back at once for ever.
    """
    count = 1 if used_seconds >= LONGEST_WAIT else before + 1
    longest = min(SHORTEST_WAIT * 2 ** (count - 1), LONGEST_WAIT)
    return count, longest * (1 + chance.bits() / 2**64) / 2


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device, what was decided about it, and whether our workers have to leave it."""

    device: DeviceSnapshot
    verdict: Availability
    leave: bool = False


def reasons_in_words(standings: Sequence[DeviceStatus]) -> str:
    """Why devices are not free, those with one reason together."""
    groups: dict[str, list[DeviceSnapshot]] = {}
    for one in standings:
        if not one.verdict.free:
            groups.setdefault(one.verdict.reason, []).append(one.device)
    return "; ".join(f"{_together(devices)}: {reason}" for reason, devices in groups.items())


def _together(devices: Sequence[DeviceSnapshot]) -> str:
    gpus = [one for one in devices if one.kind != CPU]
    if len(gpus) < 2:
        return ", ".join(one.label for one in devices)
    others = [one.label for one in devices if one.kind == CPU]
    return ", ".join([f"GPUs {', '.join(str(one.index) for one in gpus)}", *others])


class DeviceLocks:
    """The devices of one daemon: which may be used now, which it holds, and where it has given way."""

    def __init__(
        self,
        look: Callable[[], Sequence[DeviceSnapshot]],
        wishes: DeviceOptions,
        chance: Randomness,
        *,
        policy: Policy = Policy.YIELD,
        folder: Path = LOCKS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._wishes, self._chance, self._policy = look, wishes, chance, policy
        self._folder, self._monotonic = folder, monotonic
        self._held: dict[str, tuple[Hold, float]] = {}
        self._leaving: set[str] = set()
        self._suspected: set[str] = set()
        """Where memory alone has told of somebody else, once so far."""
        self._turns: dict[str, tuple[int, float]] = {}
        """How often a device was left in a row, and until when."""

    def stand(
        self, own: Mapping[str, Collection[int]], needs_bytes: int = 0, own_bytes: Mapping[str, int] | None = None
    ) -> list[DeviceStatus]:
        """Decide about every device. `own` are our workers on each; a device that has none any more is given back.

        `own_bytes` is what these hold by their own account.
        """
        now = self._monotonic()
        for uuid in [uuid for uuid in self._held if not own.get(uuid)]:
            self._give_back(uuid, now)
        for lock, _ in self._held.values():
            lock.refresh()
        told = own_bytes or {}
        return [
            self._standing(device, own.get(device.uuid, ()), needs_bytes, told.get(device.uuid), now)
            for device in self._look()
        ]

    def _standing(
        self, seen: DeviceSnapshot, own_pids: Collection[int], needs_bytes: int, own_bytes: int | None, now: float
    ) -> DeviceStatus:
        device = replace(seen, locked_by=None) if seen.uuid in self._held else seen
        verdict = judge(device, self._wishes, own_pids, needs_bytes, own_bytes=own_bytes)
        if should_yield(self._policy, device, verdict, own_pids):
            # Memory is told by our workers a little later than it is taken: that alone is looked at twice.
            if verdict.foreign or device.uuid in self._suspected:
                self._leaving.add(device.uuid)
            self._suspected.add(device.uuid)
        else:
            self._suspected.discard(device.uuid)
        left = self._turns.get(device.uuid, (0, now))[1] - now
        if device.uuid in self._leaving:
            # Also when the other one has gone meanwhile: it has to end before it may begin again.
            verdict = replace(verdict, free=False)
        elif verdict.free and left > 0:
            verdict = Availability(False, f"it was left to somebody else; tried again {_soon(left)}", Cause.WAITING)
        return DeviceStatus(device, verdict, leave=device.uuid in self._leaving)

    @property
    def held(self) -> frozenset[str]:
        """The devices whose locks are ours now."""
        return frozenset(self._held)

    def take(self, device: DeviceSnapshot) -> bool:
        """Hold a device before the first worker starts there; False when another daemon was quicker.

        Raises `ConflictError` where its lock file cannot be used.
        """
        if device.kind == CPU or device.uuid in self._held:
            return True
        lock = hold(device.uuid, self._folder)
        if lock is not None:
            self._held[device.uuid] = lock, self._monotonic()
        return lock is not None

    def close(self) -> None:
        """Give everything back."""
        for lock, _ in self._held.values():
            lock.release()
        self._held.clear()

    def _give_back(self, uuid: str, now: float) -> None:
        lock, since = self._held.pop(uuid)
        lock.release()
        if uuid in self._leaving:
            self._leaving.remove(uuid)
            count, wait = backoff(self._turns.get(uuid, (0, 0.0))[0], now - since, self._chance)
            self._turns[uuid] = count, now + wait


class DeviceMonitor:
    """Looks again and again in a thread of its own: a driver that does not answer holds up nobody."""

    def __init__(
        self,
        look: Callable[[], Sequence[DeviceSnapshot]],
        *,
        every: float = 2.0,
        patience: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self.every, self._patience, self._monotonic = look, every, patience, monotonic
        self._seen: Sequence[DeviceSnapshot] = ()
        self.begun_at = -math.inf
        """When the look began that is told now; -inf before the first."""
        self._error: Exception | None = None
        self._answered, self._over = threading.Event(), threading.Event()
        self._heard_at = monotonic()
        threading.Thread(target=self._go_on_looking, name="lookout", daemon=True).start()

    def seen(self, *, wait: bool = True) -> list[DeviceSnapshot]:
        """The last look; the first one is waited for. What no longer answers is told as broken."""
        if wait:
            self._answered.wait(self._patience)
        if self._error is not None:
            raise self._error
        silence = self._monotonic() - self._heard_at
        if silence <= self._patience + self.every:
            return list(self._seen)
        trouble = f"the driver has not answered for {silence:.0f} s"
        return [device if device.kind == CPU else replace(device, trouble=trouble) for device in self._seen]

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _go_on_looking(self) -> None:
        while not self._over.is_set():
            begun_at = self._monotonic()
            try:
                self._seen = self._look()
                self.begun_at = begun_at
            except Exception as error:  # raised where somebody hears it
                self._error = error
            self._heard_at = self._monotonic()
            self._answered.set()
            if self._error is not None:
                return
            self._over.wait(self.every)
