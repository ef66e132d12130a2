"""The base class of the errors that a command line prints, and how it prints them."""

import os
import select
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can mend: the message says what, where, what was expected, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 160 characters, without the advice that torch puts below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def run_command(work: Callable[[], int], interrupted: str = "interrupted", who: str = "") -> int:
    """The exit status of `work`, in which an error that the user can mend becomes one line and status 1.

    `who`: which process it was (` on process 3`), where there are several.
    Ctrl-C prints `interrupted` and gives 130. A reader of our output that has gone (`… | head -1`) ends the program
    without a word, as SIGPIPE ends others (status 141).
    """
    try:
        status = work()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return 128 + signal.SIGINT
    except UserError as error:
        message = str(error)
    except MemoryError as error:
        message = str(error) or "out of memory"
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _drop_unread_output():
            return 128 + signal.SIGPIPE
        where = f"{error.filename}: " if error.filename is not None else ""
        message = f"{where}{error.strerror or error}"
    sys.stderr.write(f"error{who}: {message}\n")
    return 1


def _drop_unread_output() -> bool:
    """Whether the reader of our output or errors has gone (a pipe to a worker can break too); both then lead nowhere.

    Else Python would try to write what is left at its exit, and complain.
    """
    streams = select.poll()
    for descriptor in (1, 2):
        streams.register(descriptor, 0)
    gone = [descriptor for descriptor, event in streams.poll(0) if event & select.POLLERR]
    for descriptor in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return bool(gone)
