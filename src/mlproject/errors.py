"""What a user can do wrong, as one line that says where, what was found and what to do."""


class InputError(Exception):
    """A mistake that the user can fix: shown as one line without a traceback, exit code 2.

    The message names the file, row or option, what was found there, what was expected and what to do.
    """


class Stopped(BaseException):
    """The user or the machine asked the process to end (SIGTERM, Ctrl-C), and the work stopped cleanly.

    It is a BaseException, as KeyboardInterrupt is, so that code that goes on after the failure of one part
    (`except Exception`) does not go on after this.
    """
