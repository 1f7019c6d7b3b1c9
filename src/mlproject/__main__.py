"""The door: `python -m mlproject COMMAND --option value` becomes one tracked run of one command.

It imports `mlproject.commands.COMMAND` by name, makes its `Options` from the words, lets `check(options)`
refuse them where the command has one, opens a run and calls `run(options, run)`; None in place of the run where the
command says `TRACKED = False`.

Exit codes: 0 done, 1 something in the work failed, 2 a mistake the user can fix, 130 stopped by Ctrl-C and
143 by SIGTERM, each after a checkpoint where the command keeps one.
"""

import ast
import importlib
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mlproject import commands, compilation, options, stderr, stopping
from mlproject.errors import InputError, OutOfMemory, Stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; help pages raise SystemExit(0)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read by TensorFlow when it is first imported
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    command = words[0]
    program = f"mlproject {command}"
    with stopping.listening():
        try:
            return _run(command, words[1:])
        except InputError as error:
            print(f"{program}: {error}", file=sys.stderr)
            if isinstance(error, OutOfMemory):
                sys.stdout.flush()
                sys.stderr.flush()
                compilation.leave()
                os._exit(2)  # the runs have ended; TensorFlow's own clean-up would abort the process
            return 2
        except (Stopped, KeyboardInterrupt) as stopped:
            number = stopping.received() or signal.SIGINT
            name = signal.Signals(number).name
            where = str(stopped).removeprefix(name)
            print(f"{program}: stopped by {name} {str(where).strip()}".rstrip(), file=sys.stderr)
            return 128 + number
        except Exception as error:
            if refused := _refusal(error):
                print(f"{program}: {refused}", file=sys.stderr)
                return 2
            traceback.print_exc()
            return 1


def command_names() -> list[str]:
    """Every command there is: the modules of `mlproject.commands`, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


def _run(command: str, words: list[str]) -> int:
    try:
        module = _module(command)
        chosen = options.parse(module.Options, words, program=f"python -m mlproject {command}")
        if hasattr(module, "check"):
            module.check(chosen)
    except InputError as error:
        if "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` has made a run already: let it say why it ends
            from mlproject.tracking import runs

            runs.refuse_run(str(error))
        raise
    if not getattr(module, "TRACKED", True):
        return int(module.run(chosen, None) or 0)
    from mlproject.tracking import runs  # takes seconds to import, and a refused option needs none of it

    with runs.start_run(command, chosen) as run:
        code = int(module.run(chosen, run) or 0)
        if code:
            run.fail(f"{command} ended with exit code {code}")
    return code


def _module(command: str) -> ModuleType:
    names = command_names()
    if command not in names:
        hint = options.nearest(command, names)
        raise InputError(f"unknown command {command!r}{hint}; there are: {', '.join(names) or 'none'}")
    compilation.enable()  # TensorFlow reads where that is when it is imported
    with stderr.without(stderr.GREETING):
        module = importlib.import_module(f"{commands.__name__}.{command}")
        if tensorflow := sys.modules.get("tensorflow"):
            tensorflow.config.list_physical_devices()  # it looks for a GPU here, or else in the middle of the work
        return module


def _refusal(error: Exception) -> str:
    """How a tracking server has turned the user away, if that is the error; none is asked without this module."""
    refusals = sys.modules.get("mlproject.tracking.refusals")
    return refusals.refusal(error) if refusals else ""


def _overview() -> str:
    lines = ["usage: python -m mlproject COMMAND [--option value ...]", "", "commands:"]
    names = command_names()
    width = max(map(len, names), default=0)
    lines += [f"  {name:<{width}}  {_first_line(name)}".rstrip() for name in names]
    lines += ["", "python -m mlproject COMMAND --help lists the options of a command"]
    return "\n".join(lines)


def _first_line(command: str) -> str:
    """What a command is for, read from its source: importing all of them would load TensorFlow."""
    source = Path(next(iter(commands.__path__)), f"{command}.py")
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source.is_file() else None
    return (docstring or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
