"""The state of the images when a search is created, and the comparison with the images that workers load later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

NO_DATA: Final = "none"
"""The value of `data.name` for a user's own training function that reads no images."""
NO_DATA_DIGEST: Final = "0" * 64
NO_DATA_RESOLUTION: Final = 32
NO_DATA_CHANNELS: Final = 3
NO_DATA_CLASSES: Final = 10
"""Without images, the costs of networks are counted for images of this shape and for this number of classes."""


@dataclass(frozen=True, slots=True)
class DataState:
    """Digests of the images of a search.

    `data_digest` covers the images in memory, or the names, sizes and classes of streamed images. Only streamed images
    have the other two digests: `files_digest` also covers modification times; `content_digest` covers the bytes, and is
    None until a process has read all files. `plugin` identifies the version and the source of the plug-in that provides
    the data set; it is None without a plug-in.
    """

    data_digest: str
    files_digest: str | None = None
    content_digest: str | None = None
    plugin: Mapping[str, str] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DataState:
        """Return the state that the record or a message holds."""
        return cls(
            content["data_digest"], content.get("files_digest"), content.get("content_digest"), content.get("plugin")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        return {**self.digests(), **({} if self.plugin is None else {"plugin": dict(self.plugin)})}

    def digests(self) -> dict[str, str | None]:
        """Return the digests of the images by name."""
        return {
            "data_digest": self.data_digest,
            "files_digest": self.files_digest,
            "content_digest": self.content_digest,
        }

    def describe_change(self, now: DataState) -> str | None:
        """Describe the difference, with both digests; return None if the images are the same."""
        if self.data_digest != now.data_digest:
            return f"their digest was {self.data_digest} at creation and is {now.data_digest} now{self._plugins(now)}"
        if self.content_digest is not None and now.content_digest is not None:
            if self.content_digest == now.content_digest:
                return None
            return f"the digest of their bytes was {self.content_digest} at creation and is {now.content_digest} now"
        if self.files_digest != now.files_digest:
            return (
                f"the digest of their names, sizes and modification times was {self.files_digest} at creation and "
                f"is {now.files_digest} now, though names and sizes are the same"
            )
        return None

    def _plugins(self, now: DataState) -> str:
        then, present = self.plugin, now.plugin
        if then is None or present is None or then["source_digest"] == present["source_digest"]:
            return ""
        return (
            f" (the source of {then['reference']} has changed too, from version {then['version']} to "
            f"{present['version']})"
        )
