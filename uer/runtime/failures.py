"""Classifies an exception in a rank: an error of the user, a bug, or a consequence of another rank's failure."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from uer.errors import UserError
from uer.terminal import BROKEN_PIPE_STATUS

COMPILERS = ("torch._dynamo", "torch._inductor")
REASON_CHARS = 200  # of a compiler's message, which goes on for pages


def _no_explanation(error: BaseException) -> str:
    return ""


# Explains a failed communication, such as which rank did not respond; "" if the cause is not known.
# `uer.runtime.parallel`, which connects the ranks, sets it.
explain: Callable[[BaseException], str] = _no_explanation


class SharedError(UserError):
    """A UserError that is raised on every rank, so that only rank 0 shows it."""


@dataclass(frozen=True)
class Failure:
    """Why a rank ended.

    Attributes:
        weight: larger for a cause than for its consequences (a rank fails too if another one has ended); the failure
            with the largest weight is shown.
        status: the exit status of the command.
        message: one line, or a traceback; "" where nothing is shown.
        user: the user can correct it; it is shown as one line without a traceback.
    """

    weight: int
    status: int
    message: str
    user: bool = False


def describe(error: BaseException) -> Failure:
    """The description of a rank's exception that is sent to the parent process."""
    if isinstance(error, UserError):
        return Failure(3, 2, str(error), user=True)
    if isinstance(error, BrokenPipeError) and error.filename is not None:  # standard output's, not a connection's
        return Failure(3, BROKEN_PIPE_STATUS, "")
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError):
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return Failure(3, 2, message, user=True)
    if is_out_of_memory(error):
        return Failure(3, 2, f"out of memory: {str(error).strip() or 'nothing is left'}; a smaller --batch_size or "
                       "model needs less", user=True)
    if type(error).__module__.startswith(COMPILERS):
        reason = " ".join(str(error).split())[:REASON_CHARS] or type(error).__name__
        return Failure(3, 2, f"torch.compile failed ({reason}); --compile off does without it", user=True)
    reason = explain(error)
    if reason:
        return Failure(3, 2, reason, user=True)
    text = "".join(traceback.format_exception(error))
    return Failure(1 if is_lost_peer(error) else 2, 1, text)


@contextlib.contextmanager
def as_user_errors() -> Iterator[None]:
    """Turn exceptions that `describe` counts as errors of the user, such as a lack of memory, into a `UserError` of
    one line; others pass through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        failure = describe(error)
        if failure.user:
            raise UserError(failure.message) from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or the GPU was too small for a tensor."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def is_timeout(error: BaseException) -> bool:
    """Whether this exception says that another rank did not respond in time."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("timed out" in text or "timeout" in text)


def is_lost_peer(error: BaseException) -> bool:
    """Whether this exception says that another rank ended, so that the cause is there."""
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset", "gloo", "nccl", "broken pipe", "socket")
    return isinstance(error, (RuntimeError, ConnectionError)) and any(sign in text for sign in signs)
