"""How much of a model's speed is left behind the scoring server, and what an answer and a request cost.

One worker against calls of the same model in a loop, and against MLflow's own server on the same model; then the bytes
of an answer and the memory of the worker.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from measuring import ROOT, verdict

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import mlflow  # noqa: E402

import asking  # noqa: E402

CLIENTS = (1, 4, 16)
SECONDS = 8.0
LIMIT_SHARE = 1 / 0.85  # direct calls in the time of one answer, at `quarter`
LIMIT_TAIL, LIMIT_BYTES, LIMIT_GROWTH_MB = 3.0, 1.3, 20.0
GROWTH_REQUESTS = 2000
LENGTH = {"quarter": 24_576, "tiny": 2_048}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["letters", "tiny", "quarter"], default="quarter")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--requests", type=int, default=GROWTH_REQUESTS, help="for the growth of memory")
    parser.add_argument("--stock", action="store_true", help="MLflow's server too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "model")
        make(options.model, folder)
        return measure(options.model, folder, options.seconds, options.requests, options.stock)


def make(kind: str, folder: Path) -> None:
    """Writes the model: one that counts letters, or an Enformer with random weights and 5,313 tracks."""
    if kind == "letters":
        asking.save_letters(folder)
        return
    from enformer_core.enformer import BIN_SIZE_BP, Enformer, preset
    from mlproject.tracking import sequence_models
    from serving_models import made

    length = LENGTH[kind]
    config = preset(
        kind, heads={"human": 5313}, sequence_length=length, target_length=length // BIN_SIZE_BP // 2
    )
    toy = made(folder.parent, Enformer(config))
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(ROOT / "src" / "mlproject" / "serving" / "sequence_model.py"),
        artifacts={"saved_model": str(toy.saved_model), "about": str(toy.about)},
        signature=sequence_models._signature(),
        pip_requirements=["mlflow"],
    )


def question(kind: str) -> dict[str, Any]:
    """A usual request: one sequence of the model's length, and the mean of a few tracks."""
    letters = "ACGT" * (LENGTH.get(kind, 2048) // 4)
    return asking.sequences(letters) if kind == "letters" else asking.sequences(letters, tracks="0-9")


def measure(kind: str, folder: Path, seconds: float, requests: int, with_stock: bool) -> int:
    """Prints rates, latencies, bytes and memory; 1 where a limit is not met."""
    asked = question(kind)
    body = json.dumps(asked).encode()
    direct = in_loop(folder, kind, body, seconds)
    print(f"{kind}: reference, the model called in a loop: {direct:.2f} requests/s")
    met, loops = True, [direct]
    rates: dict[str, dict[int, float]] = {}
    for name, start in servers(folder, with_stock).items():
        with start() as running:
            for _ in range(3):
                running.post(body)
            for clients in CLIENTS:
                times = load(running, body, clients, seconds)
                rate = len(times) / seconds
                rates.setdefault(name, {})[clients] = rate
                median, p99 = statistics.median(times), sorted(times)[math.ceil(0.99 * len(times)) - 1]
                print(
                    f"{name}, {clients:2} clients: {rate:8.2f} requests/s, {rate / direct:.2f} of the loop; "
                    f"median {1000 * median:.1f} ms, p99 {1000 * p99:.1f} ms",
                    flush=True,
                )
                if name == "serve" and clients == 4:
                    met &= verdict("p99 over median at 4 clients", p99 / median, LIMIT_TAIL)
            if name == "serve":
                met &= answer_bytes(running, kind, asked)
                met &= growth(running, body, requests)
        loops.append(in_loop(folder, kind, body, seconds))  # the machine may not be as it was
    print(f"the model in a loop, each time: {', '.join(f'{rate:.2f}' for rate in loops)} requests/s")
    if kind == "quarter":
        direct = statistics.mean(loops[:2])  # before and after
        for clients in CLIENTS:
            share = direct / rates["serve"][clients]
            met &= verdict(f"direct calls in the time of one answer, {clients} clients", share, LIMIT_SHARE)
    return 0 if met else 1


def in_loop(folder: Path, kind: str, body: bytes, seconds: float) -> float:
    """Predictions a second of one process that has its input already and writes nothing.

    Of an Enformer this is its SavedModel with one sequence, of the model that counts letters the pyfunc with its table.
    """
    if kind == "letters":
        ready = (
            "import mlflow, pandas as pd; model = mlflow.pyfunc.load_model(sys.argv[1])\n"
            "table, params = pd.DataFrame(asked['inputs']), asked.get('params')\n"
            "call = lambda: model.predict(table, params=params)\n"
        )
    else:
        ready = (
            "import tensorflow as tf; from enformer_core import dna\n"
            "model = tf.saved_model.load(sys.argv[1] + '/artifacts/saved_model')\n"
            "sequence = tf.constant(dna.one_hot(asked['inputs']['sequence'][0])[None])\n"
            "call = lambda: model.signatures['serving_default'](sequence=sequence)\n"
        )
    script = (
        f"import json, sys, time; asked = json.load(sys.stdin)\n{ready}"
        "call(), call(); count, began = 0, time.perf_counter()\n"
        "while time.perf_counter() - began < float(sys.argv[2]): call(); count += 1\n"
        "print(count / (time.perf_counter() - began))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(seconds)],
        input=body,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    return float(done.stdout.splitlines()[-1])


def servers(folder: Path, with_stock: bool) -> dict[str, Callable[[], "asking.Server"]]:
    """What is measured, by name, each with one process that predicts."""
    words = ["--model", str(folder), "--workers", "1"]
    here = str(folder.parent)
    found: dict[str, Callable[[], asking.Server]] = {
        "serve": lambda: asking.Server(here, *words),
        "serve without batching": lambda: asking.Server(here, *words, "--batching", "false"),
    }
    if with_stock:
        found["mlflow models serve"] = lambda: Stock(folder)
    return found


class Stock(asking.Server):
    """`mlflow models serve`: its application under uvicorn, as that command starts it."""

    def __init__(self, folder: Path) -> None:
        self.host, self.port = "127.0.0.1", 5917
        words = ["uvicorn", "--port", str(self.port), "mlflow.pyfunc.scoring_server.app:app"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**os.environ, "__pyfunc_model_path__": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self.process.stdout.read, daemon=True).start()  # a line for each request
        self.errors = []
        self.wait_for(self._answers, 120)

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/ping").status == 200
        except OSError:
            return False

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        self.process.wait(60)


def load(running: "asking.Server", body: bytes, clients: int, seconds: float) -> list[float]:
    """Seconds of each answer to clients that ask again as soon as they have one."""
    times: list[float] = []
    ends = time.perf_counter() + seconds

    def client() -> None:
        with running.connect() as connection:
            while (began := time.perf_counter()) < ends:
                assert running.post(body, connection).status == 200
                times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def answer_bytes(running: "asking.Server", kind: str, asked: dict[str, Any]) -> bool:
    """Of a long answer, against its numbers alone as a list in JSON."""
    if kind == "letters":
        found = running.post(asked)
        numbers = [row["count"] for row in found.json["predictions"]]
    else:
        found = running.post(asking.sequences(*asked["inputs"]["sequence"], tracks="0-99", aggregate="none"))
        numbers = [value for row in found.json["predictions"] for value in row["values"]]
    own = len(json.dumps(numbers, separators=(",", ":")))
    ratio = len(found.body) / own
    if kind != "quarter":  # fewer numbers in a row than usual: the names of tracks weigh more
        print(f"bytes of an answer: {ratio:.2f} of its {len(numbers)} numbers")
        return True
    return verdict(f"bytes of an answer of {len(numbers)} numbers, over theirs", ratio, LIMIT_BYTES)


def growth(running: "asking.Server", body: bytes, requests: int) -> bool:
    """Memory of the worker after requests, bad ones among them, against that after the first tenth."""
    workers = [
        one
        for one in psutil.Process(running.process.pid).children()
        if "resource_tracker" not in " ".join(one.cmdline())
    ]
    before = 0
    with running.connect() as connection:
        for number in range(requests):
            if number == requests // 10:
                before = sum(one.memory_info().rss for one in workers)
            running.post(body if number % 2 else b'{"inputs": {"sequence": ["!"]}}', connection)
    after = sum(one.memory_info().rss for one in workers)
    return verdict(f"growth over {requests} requests", (after - before) / 1e6, LIMIT_GROWTH_MB, " MB")


if __name__ == "__main__":
    sys.exit(main())
