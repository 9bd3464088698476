"""Render the plots and the report of each search in a child process, and upload them to the search's run."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eatnas_db.errors import describe_os_error
from eatnas_db.interpreter import python_command
from eatnas_db.queries.searches import SearchRecord

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PICTURES_TAG: Final = "eatnas.drawn"
"""The tag with the revision of the search that the uploaded pictures show."""
MIN_INTERVAL_SECONDS: Final = 60.0
MIN_INTERVAL_SHARE: Final = 0.02
"""Pictures are rendered again after a minute or, if this is longer, after this share of the search's age."""
RENDER_TIMEOUT_SECONDS: Final = 600.0


class RenderProcess:
    """Renders the pictures of one search at a time in a child process, so that slow plots do not delay the writing of
    runs.
    """

    def __init__(self, database_url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        # Pass the URL in the environment: it may hold a password, and every user can read the arguments of a process.
        self._environment = {**os.environ, "EATNAS_DB_URL": database_url}
        self._monotonic = monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._deadline = 0.0
        self.search_id: int | None = None
        """The id of the search that is being rendered or was rendered last, until `clear` deletes its files."""

    def start(self, search: SearchRecord) -> None:
        """Start rendering the pictures of a search."""
        self._folder = tempfile.TemporaryDirectory(prefix="eatnas-mlflow-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        (folder / "files").mkdir()
        program = python_command("-m", "eatnas_report.render", search.name, str(folder / "files"))
        with (folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                program, env=self._environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        self._deadline = self._monotonic() + RENDER_TIMEOUT_SECONDS
        self.search_id = search.id

    def poll(self, *, wait: bool) -> Path | None:
        """Return the folder of the rendered files, or None while the process is running.

        Raises `RuntimeError` with the last line of the process's output if the process failed.
        """
        assert self._process is not None
        assert self._folder is not None
        seconds_left = max(0.0, self._deadline - self._monotonic())
        try:
            status = self._process.wait(seconds_left if wait else 0)
        except subprocess.TimeoutExpired:
            if not wait and seconds_left:
                return None
            self._process.kill()
            status = self._process.wait()
        if status:
            output = (Path(self._folder.name) / "errors").read_text(errors="replace").strip().splitlines()
            self.clear()
            raise RuntimeError(output[-1] if output else f"the render process exited with status {status}")
        return Path(self._folder.name) / "files"

    def clear(self) -> None:
        """Delete the rendered files."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._process = self.search_id = None


@dataclass(slots=True)
class TrackedSearch:
    """A search, its current revision, and the revisions of its uploaded and its last rendered pictures."""

    search: SearchRecord
    run_id: str
    revision: str
    uploaded: str
    rendered: str = ""
    rendered_at: float = float("-inf")


class SearchPictures:
    """Keeps the pictures in the runs of searches up to date."""

    def __init__(
        self,
        client: MlflowClient,
        renderer: RenderProcess,
        log: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._renderer, self._log, self._monotonic = client, renderer, log, monotonic
        self._tracked: dict[int, TrackedSearch] = {}

    def track(self, search: SearchRecord, run_id: str, revision: str, uploaded: str) -> None:
        """Set a search's current revision. `uploaded` is used only if the search is not tracked yet."""
        tracked = self._tracked.get(search.id)
        if tracked is None:
            self._tracked[search.id] = TrackedSearch(search, run_id, revision, uploaded)
        else:
            tracked.search, tracked.revision = search, revision

    def update(self, *, at_once: bool) -> None:
        """Upload rendered pictures, and start rendering the next search whose pictures are due.

        With `at_once`, render and upload all outdated pictures before returning. Errors are logged, never raised.
        """
        attempted: set[int] = set()
        while True:
            if self._renderer.search_id is not None and not self._upload(wait=at_once):
                return
            due = (number for number in self._tracked if number not in attempted and self._is_due(number, at_once))
            search_id = next(due, None)
            if search_id is None:
                return
            attempted.add(search_id)
            self._render(self._tracked[search_id])
            if not at_once:
                return

    def _is_due(self, search_id: int, at_once: bool) -> bool:
        tracked = self._tracked[search_id]
        search = tracked.search
        ended = search.finished_at is not None
        if tracked.uploaded == tracked.revision or not (search.settled or ended):
            return False
        interval = max(MIN_INTERVAL_SECONDS, MIN_INTERVAL_SHARE * (time.time() - search.created_at))
        waited = self._monotonic() - tracked.rendered_at >= interval
        return at_once or waited or (ended and not tracked.rendered.startswith(search.status))

    def _render(self, tracked: TrackedSearch) -> None:
        tracked.rendered, tracked.rendered_at = tracked.revision, self._monotonic()
        try:
            self._renderer.start(tracked.search)
        except OSError as error:
            self._log(f"cannot render the pictures of {tracked.search.name}: {describe_os_error(error)}")

    def _upload(self, *, wait: bool) -> bool:
        """Upload the rendered files. Return False while the files are being rendered."""
        assert self._renderer.search_id is not None
        tracked = self._tracked[self._renderer.search_id]
        try:
            folder = self._renderer.poll(wait=wait)
            if folder is None:
                return False
            self._client.log_artifacts(tracked.run_id, str(folder))
            # Store the revision from before the rendering: the pictures may show newer data, but never older data.
            self._client.set_tag(tracked.run_id, PICTURES_TAG, tracked.rendered)
            tracked.uploaded = tracked.rendered
        except Exception as error:  # any error of the render process or of MLflow's artifact store
            self._log(f"cannot update the pictures of {tracked.search.name}: {type(error).__name__}: {error}")
        self._renderer.clear()
        return True
