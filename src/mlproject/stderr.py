"""Standard error without what TensorFlow's C++ says there for no one: no setting of its own reaches these lines."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# What TensorFlow logs when it starts, which TF_CPP_MIN_LOG_LEVEL does not reach. Error 303 is a machine without a GPU
# driver; a driver that is there and fails has other numbers, which are shown.
GREETING = re.compile(
    rb"WARNING: All log messages before absl|I0000 |To enable the following instructions|E0000 .*cuInit.*\(303\)"
)


@contextmanager
def without(noise: re.Pattern[bytes]) -> Iterator[None]:
    """Holds back standard error while the block runs, then writes the lines that do not begin with `noise`."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not noise.match(line):
                    os.write(2, line)
