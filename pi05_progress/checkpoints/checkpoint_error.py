"""The error of all that reads checkpoints; beside it no JAX is loaded."""

from ..errors import UserError, one_line


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete, or does not fit; the message says what is wrong and what to do.

    It is one printable line, whatever the checkpoint calls its tensors and its author wrote into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 2000))
