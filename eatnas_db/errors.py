"""Errors that a user can fix. Any other exception is a bug and keeps its traceback."""


class EatnasError(Exception):
    """An error with a one-line message that says what happened and what to do."""


class InvalidArchitectureError(EatnasError):
    """The text or the code of an architecture is not valid in its space."""


class InvalidSpecError(EatnasError):
    """A search specification has an unknown key, a wrong type or a value out of range."""


class SpaceExhaustedError(EatnasError):
    """The search space holds no new architecture within the limits of the search."""


class NotFoundError(EatnasError):
    """The record holds no search, candidate or file with this name or id."""


class ConflictError(EatnasError):
    """The current state of the record, a file or a device does not allow the operation."""


class OwnershipError(ConflictError):
    """The home, the database or the host name of a running daemon now belongs to another process, or was deleted."""


class RecordError(EatnasError):
    """The database cannot be used: it is unreachable, damaged or read-only, holds no record, or holds a record of
    another version.
    """


class DamagedRecordError(EatnasError):
    """A value in the record was not written by this program; other rows may be intact."""


class UnstorableTextError(RecordError):
    """A string is too long or has characters that the database cannot store, so repeating the write is useless."""


class TransactionRollbackError(RecordError):
    """A transaction conflicted with another one and wrote nothing; it can be repeated immediately."""


class CollisionError(EatnasError):
    """Another program changed a search at the same time, or the record of the search contradicts itself."""


class DataError(EatnasError):
    """A data set is unknown, missing or damaged."""


class MetricError(EatnasError):
    """A training has no usable value of a metric that the search optimizes."""


class PluginError(EatnasError):
    """A plug-in is not installed, cannot be loaded, has changed, or breaks a rule of its interface."""


class MissingPackageError(EatnasError):
    """A command needs a package that this installation does not have."""


class StaleLeaseError(EatnasError):
    """The writer no longer holds the lease of the candidate."""


def describe_os_error(error: OSError) -> str:
    """Return one line for an error of the operating system: the file, if the error names one, and what happened to the
    file.
    """
    reason = error.strerror or str(error) or type(error).__name__
    files = " -> ".join(str(file) for file in (error.filename, error.filename2) if file is not None)
    return f"{files}: {reason}" if files else reason
