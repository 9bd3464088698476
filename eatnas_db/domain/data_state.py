"""The state of a search's images at its creation, and whether images that are loaded later are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataState:
    """Digests of the images of a search.

    `data_digest` covers the images in memory; for streamed images only names, sizes and classes. Only streamed images
    have the others: `files_digest` also covers modification times; `content_digest` covers the bytes, and is None if
    they have not been read.
    """

    data_digest: str
    files_digest: str | None = None
    content_digest: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, str | None]) -> DataState:
        """Return the state that the record or a message holds."""
        data_digest = content["data_digest"]
        assert data_digest is not None
        return cls(data_digest, content.get("files_digest"), content.get("content_digest"))

    def describe_change(self, now: DataState) -> str | None:
        """Describe the difference, with both digests; return None if the images are the same."""
        if self.data_digest != now.data_digest:
            return f"their digest was {self.data_digest} at creation and is {now.data_digest} now"
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
