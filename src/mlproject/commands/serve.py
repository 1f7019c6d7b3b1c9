"""Answer requests for predictions over HTTP: MLflow's scoring server, with limits, batches and one log line each."""

import contextlib
import dataclasses
import os
from pathlib import Path

from mlproject.errors import InputError

TRACKED = False  # a server has no result that a run could keep


@dataclasses.dataclass(frozen=True)
class Options:
    """Serve a registered model over HTTP, in this environment, with as many copies of it as memory allows."""

    model: str = ""
    """Address: models:/NAME@ALIAS, models:/NAME/VERSION, a folder. Empty: the champion of the model changed last."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine alone; 0.0.0.0 is every network that it is in."""
    port: int = 5001
    """Port to listen on; 0: any that is free."""
    workers: int = 0
    """Processes, each with a copy of the model. 0: as many as memory and cores allow."""
    reference_fasta: str = ""
    """Genome, for requests with chrom, start and end or with variants. Empty: sequences alone."""
    max_body_mib: int = 16
    """Largest body of a request, in MiB."""
    max_rows: int = 1000
    """Most rows of a request."""
    timeout_seconds: float = 60.0
    """Longest time until an answer, or until a request has arrived."""
    batch_size: int = 4
    """Sequences that the model sees at once."""
    batching: bool = True
    """Whether rows of requests that wait at the same time and ask for the same go through the model together."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which clients may ask, without port; * is any. Empty: localhost, 127.0.0.1, ::1 and the host."""


_ANY = ("0.0.0.0", "::")
_MOST_ROWS = 1_000_000


def check(options: Options) -> None:
    """Refuses what cannot run.

    Raises:
        InputError: one line that names the option, what was found and what to do.
    """
    least = {
        "port": 0,
        "workers": 0,
        "max_body_mib": 1,
        "max_rows": 1,
        "timeout_seconds": 0.1,
        "batch_size": 1,
    }
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            raise InputError(f"--{name}: found {getattr(options, name):g}; it must be {lowest:g} or more")
    for name in ("max_rows", "batch_size"):
        if getattr(options, name) > _MOST_ROWS:
            raise InputError(f"--{name}: found {getattr(options, name)}; it must be {_MOST_ROWS} or less")
    if options.port > 65535:
        raise InputError(f"--port: found {options.port}; expected 0 to 65535")
    if options.reference_fasta and not Path(options.reference_fasta).is_file():
        raise InputError(f"--reference_fasta: there is no file {options.reference_fasta}")
    if options.host in _ANY and not options.allowed_hosts:
        raise InputError(
            f"--allowed_hosts: needed with --host {options.host}: the names by which clients call this machine, or *"
        )


def run(options: Options, run: None) -> int:
    """Serves until SIGTERM or Ctrl-C.

    Returns:
        0, or 1 where the model cannot be loaded.

    Raises:
        InputError: no such model, or a port that is taken.
    """
    from mlproject.serving import server  # takes seconds to import
    from mlproject.serving.guard import LOOPBACK, Limits

    # read by the served model, when a worker loads it
    os.environ["MLPROJECT_MAX_ROWS"] = str(options.max_rows)
    os.environ["MLPROJECT_BATCH_SIZE"] = str(options.batch_size)
    if options.reference_fasta:
        os.environ["MLPROJECT_REFERENCE_FASTA"] = str(Path(options.reference_fasta).absolute())
    limits = Limits(
        max_body_bytes=options.max_body_mib * 2**20,
        max_rows=options.max_rows,
        timeout_seconds=options.timeout_seconds,
        batch_rows=options.batch_size if options.batching else 0,
        allowed_hosts=options.allowed_hosts or (*LOOPBACK, options.host),
    )
    with (
        contextlib.closing(server.open_socket(options.host, options.port)) as opened,
        server.fetched(options.model or server.champion()) as found,
    ):
        return server.Supervisor(server.App(found, limits, os.getpid()), opened, options.workers).serve()
