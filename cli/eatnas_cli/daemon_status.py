"""Read and show the answer of `daemon status`: the daemon, its trainings, and the reasons why searches wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eatnas_cli.device_texts import describe_memory, describe_state
from eatnas_cli.host_sentences import describe_hold, describe_lost_hosts
from eatnas_cli.printing import Format, Layout, show, show_one
from eatnas_cli.search.summaries import print_summaries
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.daemon_lock import find_record_user
from eatnas_daemon.lock_holder import LockHolder
from eatnas_daemon.mlflow.problems import MlflowProblem, read_problem
from eatnas_daemon.search_status import current_status, is_supervised
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.holds import RecordedHold, list_holds
from eatnas_db.queries.hosts import RecordedDevice, RecordedHost, list_devices, list_hosts
from eatnas_db.queries.searches import SearchSummary, list_search_summaries
from eatnas_db.queries.training_activity import (
    BlockedSearch,
    TrainingActivity,
    list_blocked_searches,
    list_training_activity,
)
from eatnas_db.settings import Settings
from eatnas_report.formats import format_time


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon of this home (None if no daemon is running), and the recorded devices, trainings and searches.

    `supervised` is true if a daemon on any host is working on the record. `since` is the time at which the daemon
    started.
    """

    daemon: LockHolder | None
    since: float | None
    supervised: bool
    hosts: Sequence[RecordedHost]
    devices: Sequence[RecordedDevice]
    work: Sequence[TrainingActivity]
    held_up: Sequence[BlockedSearch]
    holds: Sequence[RecordedHold]
    searches: Sequence[SearchSummary]
    problem: MlflowProblem | None


def read_status(settings: Settings) -> DaemonStatus:
    """Read the status from the lock file and, in one transaction, from the record. Raises `EatnasError` on failure."""
    user = find_record_user(settings.lock_file)
    daemon = user.process if user is not None and user.is_daemon else None
    with read_connection(settings.database_url) as connection:
        supervised = is_supervised(settings, connection)
        return DaemonStatus(
            daemon=daemon,
            # A daemon writes its pid into the lock file when it starts, which sets the modification time.
            since=None if daemon is None else settings.lock_file.stat().st_mtime,
            supervised=supervised,
            hosts=list_hosts(connection) if is_postgresql(connection) else (),
            devices=list_devices(connection),
            # Without a daemon, ignore the leases: a killed daemon leaves them in the record, but nothing trains their
            # candidates.
            work=list_training_activity(connection) if supervised else (),
            held_up=list_blocked_searches(connection) if supervised else (),
            holds=list_holds(connection) if supervised else (),
            searches=list_search_summaries(connection),
            problem=read_problem(settings),
        )


def show_status(status: DaemonStatus, format: Format, layout: Layout) -> None:  # noqa: A002
    """Print the status as tables, or as one object."""
    if format is not Format.TABLE:
        show_one(_to_object(status), format, layout=layout)
        return
    _show_daemon(status.daemon, status.since)
    named = ("host",) if status.hosts else ()
    if status.hosts:
        show(status.hosts, ("name", "alive", "devices", "in_training", "seen_at"), format, layout=layout)
        for line in describe_lost_hosts(status.hosts):
            print_sentence(line)
    _show_devices(status.devices, status.work, named, status.supervised, layout)
    if status.supervised:
        _show_work(status.work, named, layout)
    print_summaries(status.searches, status.supervised, format, layout)
    for line in describe_waits(status):
        print_sentence(line)


def describe_waits(status: DaemonStatus) -> Iterator[str]:
    """Yield a sentence for each reason why searches or devices wait."""
    if status.problem is not None:
        yield f"MLflow has had a problem since {format_time(status.problem.since_at)}: {status.problem.message}"
    for hold in status.holds:
        yield describe_hold(hold)
    for search in status.held_up:
        yield (
            f"search {search.name} leaves workers idle: one of its trainings ({search.in_training} now) must end "
            f"before the next can start, because its evolution.lag is {search.lag}; `search create --set "
            "evolution.lag=N` creates a search that can use more slots"
        )


def _to_object(status: DaemonStatus) -> dict[str, Any]:
    daemon, problem = status.daemon, status.problem
    lists: dict[str, Sequence[Any]] = {"hosts": status.hosts} if status.hosts else {}
    lists |= {"devices": status.devices, "work": status.work, "held_up": status.held_up, "holds": status.holds}
    searches = [{**asdict(row), "status": current_status(row, status.supervised)} for row in status.searches]
    return {
        "running": daemon is not None,
        "pid": None if daemon is None else daemon.pid,
        "since_at": status.since,
        "suspended": daemon is not None and daemon.is_suspended,
        **{name: [asdict(row) for row in rows] for name, rows in lists.items()},
        "searches": searches,
        "mlflow_problem": None if problem is None else asdict(problem),
    }


def _show_daemon(daemon: LockHolder | None, since: float | None) -> None:
    if daemon is None or since is None:
        print_sentence("no daemon is running; `eatnas-db daemon start` starts one")
    else:
        state = f"suspended (`kill -CONT {daemon.pid}` resumes it)" if daemon.is_suspended else "running"
        print_sentence(f"daemon {state}, {daemon}, since {format_time(since)}")


def _show_devices(
    devices: Sequence[RecordedDevice],
    work: Sequence[TrainingActivity],
    named: tuple[str, ...],
    supervised: bool,
    layout: Layout,
) -> None:
    """Print the devices with their states, unless all devices are CPUs that are not paused."""
    if any(row.kind != "cpu" or row.paused_at is not None for row in devices):
        busy = Counter(row.device for row in work)
        records = [
            {
                **asdict(row),
                "memory": describe_memory(row),
                "state": describe_state(row, busy[row.uuid], is_supervised=supervised),
            }
            for row in devices
        ]
        show(records, (*named, "uuid", "name", "memory", "state"), layout=layout)


def _show_work(work: Sequence[TrainingActivity], named: tuple[str, ...], layout: Layout) -> None:
    rows = [{**asdict(row), "epochs": f"{row.epochs_done}/{row.epochs}"} for row in work]
    columns = (*named, "slot", "device", "candidate_id", "birth", "search", "attempt", "epochs", "started_at")
    show(rows, columns, layout=layout) if rows else print_sentence("nothing is in training")
