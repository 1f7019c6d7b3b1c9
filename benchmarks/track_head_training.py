"""Twenty epochs of a track head on stored embeddings against running the frozen trunk in every step.

    python benchmarks/track_head_training.py

`quarter`, 8,192 bp, 12 tracks, 200 training windows, batch 4: a thousand steps each, in the same order. Counted on the
one side are the embeddings and targets computed and written, and all steps; on the other all steps. What both compile
once is not counted. The signal follows G and C, so that there is something to learn.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import case_of, in_child, verdict

LENGTH, TRACKS, WINDOWS, BATCH = 8_192, 12, 200, 4
EPOCHS = 20
LIMIT = 0.1
LOSS_LIMIT = 0.01


def dataset_of(folder: Path) -> Any:
    """A dataset of random DNA whose signal is drawn around the share of G and C of each bin."""
    import numpy as np

    from mlproject.data.published_h5 import unnamed_targets
    from mlproject.data.records import Example, Statistics, open_dataset, write_shard
    from mlproject.data.targets import write_targets

    random = np.random.default_rng(0)
    (folder / "human" / "tfrecords").mkdir(parents=True)
    bins = LENGTH // 128
    for subset in ("train", "valid", "test"):
        examples = []
        for _ in range(WINDOWS if subset == "train" else BATCH):
            share = random.beta(2, 2, bins).repeat(128)
            gc = random.random(LENGTH) < share
            codes = np.where(gc, random.integers(1, 3, LENGTH), 3 * random.integers(0, 2, LENGTH))
            mean = share[::128, np.newaxis] * random.uniform(0.5, 2, TRACKS)
            examples.append(Example(codes.astype(np.uint8), random.poisson(mean).astype(np.float16)))
        write_shard(folder / "human" / "tfrecords" / f"{subset}-0.tfr", examples)
    Statistics(TRACKS, LENGTH, bins, 128, 0, WINDOWS, BATCH, BATCH).write(
        folder / "human" / "statistics.json"
    )
    write_targets(folder / "human" / "targets.txt", unnamed_targets(TRACKS))
    return open_dataset(folder, "human")


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of all that is counted, and the mean loss of the last epoch."""
    import numpy as np

    from enformer_core.heads import TrackHeadConfig
    from enformer_core.track_model import TrackModel
    from mlproject import weights
    from mlproject.embeddings import trunk_embeddings
    from mlproject.head_training import HeadTrainer, StoredWindows, loss_function
    from mlproject.training import Schedule, fit

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = dataset_of(folder)
        model = TrackModel(weights.untrained("quarter", LENGTH, 0), TrackHeadConfig(TRACKS), "human")
        stored = None
        if case["cache"]:
            kept = trunk_embeddings(folder, model.enformer)
            stored = StoredWindows(kept, folder / "targets", dataset, ["train"], both_strands=False)
        trainer = HeadTrainer(
            model,
            dataset,
            loss=loss_function("poisson", 1),
            batch_size=BATCH,
            clip_norm=0,
            reverse_complement=False,
            stored=stored,
            work_dir=folder,
        )
        filling = 0.0
        if stored is not None:
            trainer.embed(np.zeros((1, LENGTH), np.uint8))  # compiled before
            began = time.perf_counter()
            trainer.fill()
            filling = time.perf_counter() - began
        trainer.compile()
        trainer.reset(0)
        losses = []
        began = time.perf_counter()
        fit(
            trainer.step,
            trainer.batches(0, 0),
            Schedule(EPOCHS, WINDOWS // BATCH, 0, 5e-4),
            lambda step, scalars: losses.append(scalars["loss"]),
            seed=0,
        )
        steps = time.perf_counter() - began
    return {"filling": filling, "steps": steps, "loss": float(np.mean(losses[-WINDOWS // BATCH :]))}


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    stored, every = (in_child(__file__, {"cache": cache}) for cache in (True, False))
    if stored is None or every is None:
        return 1
    print(
        f"embeddings computed and written {stored['filling']:.1f} s, {EPOCHS} epochs on them {stored['steps']:.1f} s; "
        f"with the trunk in every step {every['steps']:.1f} s; loss {stored['loss']:.5f} and {every['loss']:.5f}"
    )
    ratio = (stored["filling"] + stored["steps"]) / every["steps"]
    met = verdict("stored embeddings / trunk in every step", ratio, LIMIT)
    apart = abs(stored["loss"] / every["loss"] - 1)
    return 0 if verdict("difference of the final loss", apart, LOSS_LIMIT) and met else 1


if __name__ == "__main__":
    sys.exit(main())
