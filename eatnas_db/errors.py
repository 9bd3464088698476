"""What can go wrong in a way that a user can mend. Anything else is a bug and keeps its traceback."""


class EatnasError(Exception):
    """A mistake or a state of the world that one line can explain, with the way out."""


class InvalidArchitectureError(EatnasError):
    """A code that the space of seven-primitive blocks cannot express."""


class InvalidSpecError(EatnasError):
    """A search specification with an unknown key, a wrong type or a value out of range."""


class SpaceExhaustedError(EatnasError):
    """Hard limits, or a search's own history, leave no architecture to propose."""


class NotFoundError(EatnasError):
    """A name or a number that the record does not hold."""


class ConflictError(EatnasError):
    """What was asked for does not fit the state that the record is in."""


class RecordError(EatnasError):
    """The database cannot be used: not ours, unreadable, read-only, or of another version."""


class TransactionRollbackError(RecordError):
    """A transaction met another one; nothing of it was written, and it may be repeated at once."""


class DataError(EatnasError):
    """A data set that is unknown, missing or damaged."""


class StaleLeaseError(EatnasError):
    """A writer repeated a fencing token that no longer holds."""
