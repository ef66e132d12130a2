"""The base class of the errors that a command line prints, and how it prints them."""

import contextlib
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can mend: the message says what, where, what was expected, and what to do."""


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
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout = None  # nothing is left to flush at exit
        return 128 + signal.SIGPIPE
    except (UserError, MemoryError) as error:
        sys.stderr.write(f"error{who}: {error}\n")
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        sys.stderr.write(f"error{who}: {where}{error.strerror or error}\n")
    return 1
