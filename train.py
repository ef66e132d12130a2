"""Train AlexNet: a shard set in; checkpoints, metrics and TensorBoard events in the run's folder out.

    python train.py --shards DIR --run DIR                                        one process: one GPU, or the CPU
    torchrun --standalone --nproc-per-node 4 -- train.py --shards DIR --run DIR   four GPUs: two split networks

A run can be stopped at any step (SIGTERM, SIGUSR1, Ctrl-C: it saves first) and goes on with --resume auto as if it had
never stopped. Exit status: 0 done or stopped in order, 1 the work failed, 2 the command line is wrong.
"""

import contextlib
import logging
import os
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from dali_pipelines import DataConfig, Loader, LoaderError, Standardise
from model import ModelConfig, make_schedule
from model.checkpoint import FORMAT, LAST, CheckpointError
from model.config import TrainConfig, parse_arguments
from model.feed import Feed, decoding_place
from model.memory import advising_on_memory
from model.mesh import Mesh, MeshError, close_mesh, make_mesh
from model.parallel import ParallelNetwork, set_up_torch
from model.progress import NotFiniteError, Progress, Step, announce
from model.restart import after_restart
from model.run_folder import RunError, RunFolder
from model.schedule import Schedule
from model.scores import ScoreError, Scores
from model.state import Keeper, Place, as_tensors, read_matching, versions, where_to_start
from model.stopping import Control, LostRankError, StopSignals, noticing_lost_ranks
from sharding import ShardError, ShardSet

logger = logging.getLogger("train")
ERRORS = (
    ShardError, LoaderError, CheckpointError, RunError, MeshError, NotFiniteError, ScoreError, LostRankError,
    MemoryError, OSError,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    config = parse_arguments(arguments, __doc__.splitlines()[0])
    rank, world = os.environ.get("RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
    level = logging.INFO if rank == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    try:
        with noticing_lost_ranks(), advising_on_memory(), logging_redirect_tqdm():
            run(after_restart(config))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 1
    except ERRORS as error:
        who = f" on process {rank}" if world > 1 else ""
        advice = f"; go on with --run {config.run} --resume auto" if isinstance(error, LostRankError) else ""
        sys.stderr.write(f"error{who}: {error}{advice}\n")
        return 1
    close_mesh()
    return 0


def open_data(config: TrainConfig) -> tuple[ShardSet, ShardSet | None]:
    """The training split and, if there is one, the validation split. Raises ShardError if they do not go together."""
    if not (config.shards / "train").is_dir():
        raise ShardError(f"{config.shards} has no train/; pack images with: make shards SRC=… OUT={config.shards}")
    train = ShardSet.open(config.shards / "train")
    if not (config.shards / "val").is_dir():
        return train, None
    val = ShardSet.open(config.shards / "val")
    if val.classes != train.classes:
        counts = f"{len(val.classes)} and {len(train.classes)}"
        raise ShardError(f"{val.path} and {train.path} have different classes ({counts}): pack both from one source")
    return train, val


def make_feed(shards: ShardSet, data: DataConfig, mesh: Mesh, statistics: Any) -> Feed:
    """This rank's batches of `shards`."""
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = max(1, len(os.sched_getaffinity(0)) // local_world)
    data = replace(data, threads=threads, device=str(mesh.device))
    if mesh.model_world > 1:
        data = replace(data, output="uint8")
    data_rank, data_world = decoding_place(mesh)
    loader = Loader(shards, data, data_rank, data_world, statistics)
    return Feed(loader, Standardise(statistics, data.recipe, mesh.device), mesh)


@dataclass(kw_only=True)
class Training:
    """What a run is made of; `run` is the loop."""

    config: TrainConfig
    signals: StopSignals
    network: ParallelNetwork
    schedule: Schedule
    keeper: Keeper
    place: Place
    feed: Feed
    val_feed: Feed | None
    last_step: int
    progress: Progress

    def run(self) -> bool:
        """Train to the end. Returns False if a signal to any rank stopped it before."""
        try:
            return self._epochs()
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}; {self.keeper.last_good()}") from error

    def _epochs(self) -> bool:
        per_epoch = self.feed.steps_per_epoch
        while self.place.epoch < self.config.epochs:
            if not self._steps(per_epoch):
                return False
            if self.place.step < (self.place.epoch + 1) * per_epoch:  # --max-steps
                self.keeper.save(self.place)
                return True
            if not self._finish_epoch():
                return False
        return True

    def _steps(self, per_epoch: int) -> bool:
        """The steps of the epoch going on that are still to do."""
        place, epoch = self.place, self.place.epoch
        self.schedule.apply(self.network.optimiser, epoch)
        rate = max(group["lr"] for group in self.network.optimiser.param_groups if group["name"].endswith("weight"))
        start = place.step - epoch * per_epoch
        todo = min(per_epoch - start, self.last_step - place.step)
        self.progress.restart_clock()
        batches = self.feed.epoch(epoch, start) if todo > 0 else iter(())
        for _, batch in zip(range(todo), batches):
            if not self._may_go_on():
                return False
            totals = self.network.step(batch.images, batch.labels, batch.ids, step=place.step, samples=batch.samples)
            place.step += 1
            self.progress.note(
                Step(
                    step=place.step,
                    epoch=epoch,
                    samples=batch.samples,
                    rate=rate,
                    wait_seconds=batch.wait_seconds,
                    totals=totals,
                )
            )
        self.progress.handshake(stop=False, save=False, flush=True)
        return True

    def _may_go_on(self) -> bool:
        """Before a step: save if it is time to, and hear whether any rank was told to stop."""
        due = self.keeper.due(self.config.checkpoint_minutes)
        wishes = self.progress.handshake(stop=self.signals.received is not None, save=due)
        if wishes.stop or wishes.save:
            self.progress.handshake(stop=False, save=False, flush=True)
            self.keeper.save(self.place)
        return not wishes.stop

    def _finish_epoch(self) -> bool:
        """Validate, lower the rate perhaps, save. Stopped while validating, the run goes on with the validation."""
        best = False
        if not self.keeper.finite():
            raise NotFiniteError(f"the weights are not finite after step {self.place.step}")
        if self.val_feed is not None:
            scores = self._validate(self.val_feed)
            if scores is None:
                self.keeper.save(self.place)
                return False
            figures = scores.figures()
            error = figures["top1_error"]
            best = self.place.best is None or error < self.place.best
            self.place.best = error if best else self.place.best
            self.schedule.observe(error)
            self.progress.log_validation(self.place.step, self.place.epoch, figures)
        self.place.epoch += 1
        self.keeper.save(self.place, best=best, epoch_done=True)
        return True

    def _validate(self, feed: Feed) -> Scores | None:
        """Scores of the centre crop over all ranks; None if stopped."""
        scores = Scores(self.network.net.config.classes)
        for batch in feed.epoch(0):
            if self.keeper.control.any(self.signals.received is not None):
                return None
            if len(batch.labels):
                logits = self.network.logits(batch.images)
                if self.network.mesh.model_rank == 0:  # the ranks of a pair have the same
                    scores.add_logits(logits, batch.labels)
        if self.network.mesh.control_group is not None:
            scores.all_reduce(self.network.mesh.control_group)
        return scores


def make_data_config(config: TrainConfig, schedule: Schedule) -> DataConfig:
    """The loader's part of the options."""
    return DataConfig(
        recipe=config.recipe,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment == "on",
        noise_epochs=schedule.noise_epochs,
        window=config.window,
    )


def make_record(config: TrainConfig, model_config: ModelConfig, train: ShardSet) -> dict[str, Any]:
    """What each checkpoint says about the run; config.json says the same."""
    return {
        "train_config": config.to_dict(),
        "model_config": asdict(model_config),
        "data": {
            "fingerprint": train.fingerprint,
            "samples": len(train),
            "shards": str(config.shards),
            "classes": [[item.label, item.wnid, item.name] for item in train.classes],
        },
        "versions": versions(),
    }


def open_folder(config: TrainConfig, place: Place, record: dict[str, Any], data: DataConfig) -> RunFolder:
    """The run's folder with its config.json, ready for the steps after `place`."""
    folder = RunFolder(config.run, place.step, place.epoch)
    folder.write_config(
        {
            "train": record["train_config"],
            "data": asdict(data),
            "model": record["model_config"],
            "versions": record["versions"],
            "data_set": record["data"],
        }
    )
    return folder


def run(config: TrainConfig) -> None:
    """Set up, train, and say how it ended. Raises the errors of `ERRORS`."""
    device_type = set_up_torch(config)
    train_set, val_set = open_data(config)
    statistics = train_set.statistics
    mesh = make_mesh(config.model_parallel, device_type, config.timeout_seconds)
    control = Control(mesh)
    source = where_to_start(config, control)
    model_config = ModelConfig(recipe=config.recipe, classes=len(train_set.classes), width=config.width)
    record = make_record(config, model_config, train_set)
    network = ParallelNetwork(model_config, config, mesh)
    schedule = make_schedule(config.recipe, config.epochs)
    keeper = Keeper(
        run=config.run,
        keep_every=config.keep_every,
        constant=record | {"format": FORMAT, "statistics": as_tensors(asdict(statistics))},
        network=network,
        schedule=schedule,
        control=control,
    )
    place = Place() if source is None else keeper.take_up(source, read_matching(source, config, record["data"]))
    network.distribute()
    data = make_data_config(config, schedule)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())  # not before: until here there is nothing to save
        feed = stack.enter_context(contextlib.closing(make_feed(train_set, data, mesh, statistics)))
        val_feed = None
        if val_set is not None:
            val_feed = make_feed(val_set, replace(data, training=False), mesh, statistics)
            stack.enter_context(contextlib.closing(val_feed))
        last_step = min(config.epochs * feed.steps_per_epoch, config.max_steps or sys.maxsize)
        announce(network, place, len(train_set), len(val_set or ()), feed.steps_per_epoch, last_step)
        folder = None
        if mesh.first:
            folder = stack.enter_context(contextlib.closing(open_folder(config, place, record, data)))
            keeper.before_writing = folder.sync
        progress = stack.enter_context(
            contextlib.closing(Progress(mesh, control, folder, place.step, last_step, config.log_every))
        )
        training = Training(
            config=config,
            signals=signals,
            network=network,
            schedule=schedule,
            keeper=keeper,
            place=place,
            feed=feed,
            val_feed=val_feed,
            last_step=last_step,
            progress=progress,
        )
        finished = training.run()
        if folder is not None and not finished:
            folder.mark_stopped(place.step)
        last = f"checkpoint {keeper.path(LAST)}"
    if finished:
        logger.info("done after step %d: %s", place.step, last)
    else:
        logger.info("stopped after step %d: %s; go on with --run %s --resume auto", place.step, last, config.run)


if __name__ == "__main__":
    sys.exit(main())
