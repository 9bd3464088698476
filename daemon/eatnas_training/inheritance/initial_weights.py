"""Read the weights of a trained final model from which another final model starts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from eatnas_db.checkpoint_files import list_checkpoint_names, read_checkpoint
from eatnas_db.domain.macro import Task
from eatnas_db.errors import DataError
from eatnas_db.spaces import read_space
from eatnas_protocol.messages import InitialWeights
from eatnas_training import checkpoint
from eatnas_training.inheritance.parent import TrainedNetwork
from eatnas_training.inheritance.transfer import NetworkSpec


def read_initial_weights(source: InitialWeights) -> TrainedNetwork:
    """Read the weights from the checkpoint of a final model, or the moving average of the weights if the checkpoint has
    one.

    Raises `DataError` if no file has the recorded digest. The host then sets the search aside, because another host may
    have the file.
    """
    if not source.macro:
        raise DataError(
            f"final.from: the record no longer has the final model {source.label}; start new final models from another "
            "one, or without final.from"
        )
    folder = Path(source.checkpoint_folder)
    damaged = ""
    for name in list_checkpoint_names(folder, source.candidate):
        try:
            content = read_checkpoint(folder / str(name))
            if hashlib.sha256(content).hexdigest() != source.digest:
                continue
            saved = checkpoint.unpack(content)
        except (OSError, ValueError) as error:
            damaged = f" ({error})"
            continue
        space = read_space(source.macro)
        spec = NetworkSpec(space.from_code(source.code), space, Task(**source.task))
        return TrainedNetwork(spec, saved.get("average") or saved["model"])
    raise DataError(
        f"final.from: there is no intact checkpoint of the final model {source.label} with the SHA-256 "
        f"{source.digest[:12]} in {folder}{damaged}; restore the file, or copy it from the host that has it"
    )
