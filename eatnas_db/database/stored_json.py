"""Read JSON columns.

A damaged value raises an error only when it is used, so that the other rows stay readable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from eatnas_db.errors import DamagedRecordError

MAX_SHOWN_CHARACTERS: Final = 60


class DamagedJson(Mapping[str, Any]):
    """A stored string that is not JSON, for example because somebody edited the record manually.

    Every use raises an error.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __getitem__(self, key: str) -> NoReturn:
        self._fail()

    def __iter__(self) -> Iterator[str]:
        self._fail()

    def __len__(self) -> NoReturn:
        self._fail()

    def _fail(self) -> NoReturn:
        raise DamagedRecordError(
            f"the record holds text that is not JSON, beginning with {self._text[:MAX_SHOWN_CHARACTERS]!r}; "
            "`eatnas-db db check` names the search with this text; restore a backup, or correct the text"
        )


def read_json(text: str) -> Any:
    """Return the value of a stored JSON string, or a `DamagedJson` if the string is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return DamagedJson(text)
