"""The two errors that this package raises on what a user gave it."""

from common.errors import UserError


class ShardError(UserError):
    """A source, a job or a shard set is not as it must be; the message says what, where and what to do."""


class RejectedImage(ShardError):
    """One source picture cannot be packed: it goes to the manifest's `rejects`, and the job goes on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
