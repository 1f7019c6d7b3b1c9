"""What a user can do wrong, as one line that says where, what was found and what to do."""


class InputError(Exception):
    """A mistake that the user can fix: shown as one line without a traceback, exit code 2.

    The message names the file, row or option, what was found there, what was expected and what to do.
    """


class OutOfMemory(InputError):
    """The work does not fit in memory; the process is not fit to go on after it, not even to clean up."""


class Stopped(BaseException):
    """The user or the machine asked the process to end (SIGTERM, Ctrl-C), and the work stopped cleanly.

    It is a BaseException, as KeyboardInterrupt is, so that code that goes on after the failure of one part
    (`except Exception`) does not go on after this.
    """


def one_line(error: BaseException) -> str:
    """What went wrong, in one line: the kind of error unless it is an `InputError`, and its message.

    Of the long messages that TensorFlow makes while it traces ("in user code: ..."), the last line says it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return repr(error)
    if lines[0].startswith("in user code"):
        return lines[-1]
    return lines[0] if isinstance(error, InputError) else f"{type(error).__name__}: {lines[0]}"


def reason(error: Exception) -> str:
    """What went wrong, in one line without the kind of error, as the end of a line that says where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return (str(error).splitlines() or [repr(error)])[0]
