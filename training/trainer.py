"""The trainer: a config in; an epoch loop over batches that steps, validates, saves and stops in order.

`train` sets a run up and is what the command line calls; `Trainer.run` is the loop.
"""

import contextlib
import itertools
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from types import FrameType
from typing import Any

from dali_pipelines import DataConfig, Loader, Normalize
from model import ModelConfig, make_schedule
from model.checkpoint import FORMAT, LAST, versions
from model.schedule import Schedule
from model.scores import Scores
from sharding import ShardError, ShardSet, Statistics
from training.checkpoints import CheckpointManager, TrainState, as_tensors, find_start, read_matching
from training.config import NETWORK_ABLATIONS, TrainConfig
from training.mesh import Mesh, make_mesh
from training.pairs import PairedLoader, decoding_coordinates
from training.progress import NotFiniteError, Progress, Step, log_run_summary, profiling
from training.run_folder import CONFIG, STOPPED, RunFolder, RunLock
from training.step import ParallelNetwork, set_up_torch

logger = logging.getLogger(__name__)


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


def make_loader(
    shards: ShardSet, data: DataConfig, mesh: Mesh, statistics: Statistics, decode: str = "gpu"
) -> PairedLoader:
    """This rank's batches of `shards`; with --decode cpu a GPU's are decoded and cropped on the CPU."""
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = max(1, len(os.sched_getaffinity(0)) // local_world)
    on_cpu = mesh.device.type == "cpu" or decode == "cpu"
    data = replace(data, threads=threads, device="cpu" if on_cpu else str(mesh.device))
    if mesh.model_world > 1 or (on_cpu and mesh.device.type != "cpu"):
        data = replace(data, output="uint8")
    data_rank, data_world = decoding_coordinates(mesh)
    loader = Loader(shards, data, data_rank, data_world, statistics)
    return PairedLoader(loader, Normalize(statistics, data.recipe, mesh.device), mesh)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Gives a list to which SIGTERM, SIGUSR1 and a first Ctrl-C only add their names; a second Ctrl-C ends the process.

    A signal to any rank travels to all by the sum of the next step: all save there, and leave with exit status 0.
    """
    received: list[str] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """Everything that a run is made of, at the state that it goes on from; `stack` closes it; `run` is the loop."""

    def __init__(self, config: TrainConfig, stack: contextlib.ExitStack) -> None:
        device_type = set_up_torch(config)
        train_set, val_set = open_data(config)
        mesh = make_mesh(config.model_parallel, device_type, config.timeout_seconds)

        def lock_folder() -> None:
            stack.callback(RunLock(config.run_dir).close)

        mesh.on_main_rank(lock_folder)
        source = find_start(config, mesh)
        self.config, self.mesh, self.state = config, mesh, TrainState()
        self.schedule = make_schedule(
            config.recipe, config.epochs, log=config.schedule, plateau=config.plateau, patience=config.patience
        )
        data = make_data_config(config, self.schedule)
        parts = tuple(name for name in config.ablate if name in NETWORK_ABLATIONS)
        classes = len(train_set.classes)
        model = ModelConfig(recipe=config.recipe, classes=classes, width=config.width, ablate=parts)
        description = describe_run(config, data, model, train_set)
        self.network = ParallelNetwork(model, config, mesh)
        statistics = as_tensors(asdict(train_set.statistics))
        constant = description | {"format": FORMAT, "statistics": statistics}
        self.checkpoints = CheckpointManager(config, constant, self.network, self.schedule)
        if source is not None:
            self.state = self.checkpoints.load(source, read_matching(source, config, description["dataset"]))
        self.network.distribute()
        self.signals = stack.enter_context(stop_signals())  # not before: until here there is nothing to save

        def open_loader(shards: ShardSet, data: DataConfig) -> PairedLoader:
            loader = make_loader(shards, data, mesh, train_set.statistics, config.decode)
            stack.callback(loader.close)
            return loader

        self.loader = open_loader(train_set, data)
        self.val_loader = None if val_set is None else open_loader(val_set, replace(data, training=False))
        steps_per_epoch = self.loader.steps_per_epoch
        self.last_step = min(config.epochs * steps_per_epoch, config.max_steps or sys.maxsize)
        log_run_summary(self.network, self.state, len(train_set), len(val_set or ()), steps_per_epoch, self.last_step)
        folder = None
        if mesh.is_main:
            folder = RunFolder(config.run_dir, self.state.step, self.state.epoch)
            stack.callback(folder.close)
            folder.write(CONFIG, description)
            self.checkpoints.before_writing = folder.sync
        self.progress = Progress(mesh, folder, self.state.step, self.last_step, config.log_every)
        stack.callback(self.progress.close)
        self.step_done = stack.enter_context(profiling(config, mesh))

    def run(self) -> bool:
        """Train to the end. Returns False if a signal to any rank stopped it before. Raises NotFiniteError."""
        per_epoch = self.loader.steps_per_epoch
        while self.state.epoch < self.config.epochs:
            if not self._steps(per_epoch):
                return False
            if self.state.step < (self.state.epoch + 1) * per_epoch:  # --max-steps
                self.checkpoints.save(self.state)
                return True
            if not self._finish_epoch():
                return False
        return True

    def _steps(self, per_epoch: int) -> bool:
        """The steps of the epoch going on that are still to do."""
        state, epoch = self.state, self.state.epoch
        self.schedule.apply(self.network.optimizer, epoch)
        rate = max(group["lr"] for group in self.network.optimizer.param_groups if group["name"].endswith("weight"))
        start = state.step - epoch * per_epoch
        todo = max(0, min(per_epoch - start, self.last_step - state.step))
        self.progress.restart_clock()
        for batch in itertools.islice(self.loader.epoch(epoch, start), todo):
            if not self._may_go_on():
                return False
            totals = self.network.step(batch.images, batch.labels, batch.ids, step=state.step, samples=batch.samples)
            state.step += 1
            wait_seconds, damaged_images = batch.wait_seconds, self.loader.damaged_images
            self.progress.add(Step(state.step, epoch, batch.samples, rate, wait_seconds, damaged_images, totals))
            self.step_done()
        self._report_all()
        return True

    def _may_go_on(self) -> bool:
        """Before a step: report the one that is ready, save if it is time to, and hear whether any rank must stop.

        One sum over all ranks carries that step's figures, and who asks to stop or save: so all do the same.
        """
        ready = self.progress.pop_ready()
        stop, save = bool(self.signals), self.checkpoints.is_due()
        stops, saves, *sums = self.mesh.sum([float(stop), float(save), *self.progress.own_sums(ready)])
        if ready is not None:
            self.progress.report(ready, sums)
        if stops or saves:
            self._report_all()
            self.checkpoints.save(self.state)
        return not stops

    def _report_all(self) -> None:
        """Report every step that has been queued; called by all ranks alike."""
        while (step := self.progress.pop_ready(flush=True)) is not None:
            self.progress.report(step, self.mesh.sum(self.progress.own_sums(step)))

    def _finish_epoch(self) -> bool:
        """Validate, lower the rate perhaps, save. Stopped while validating, the run goes on with the validation."""
        best = False
        if not self.checkpoints.finite():
            raise NotFiniteError(f"the weights are not finite after step {self.state.step}")
        if self.val_loader is not None:
            scores = self._validate(self.val_loader)
            if scores is None:
                self.checkpoints.save(self.state)
                return False
            figures = scores.figures()
            error = figures["top1_error"]
            best = self.state.best is None or error < self.state.best
            self.state.best = error if best else self.state.best
            self.schedule.observe(figures)
            self.progress.log_validation(self.state.step, self.state.epoch, figures)
        self.state.epoch += 1
        self.checkpoints.save(self.state, best=best, epoch_done=True)
        return True

    def _validate(self, loader: PairedLoader) -> Scores | None:
        """Scores of the center crop over all ranks; None if stopped."""
        scores = Scores(self.network.net.config.classes)
        for batch in loader.epoch(0):
            if self.mesh.any(bool(self.signals)):
                return None
            if len(batch.labels):
                logits = self.network.logits(batch.images)
                if self.mesh.model_rank == 0:  # the ranks of a pair have the same
                    scores.add_logits(logits, batch.labels)
        if self.mesh.control_group is not None:
            scores.all_reduce(self.mesh.control_group)
        return scores


def make_data_config(config: TrainConfig, schedule: Schedule) -> DataConfig:
    """The loader's part of the options."""
    return DataConfig(
        recipe=config.recipe,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment == "on",
        random_crops="crops" not in config.ablate,
        noise_epochs=0 if "color" in config.ablate else schedule.noise_epochs,
        noise_again=None if "color" in config.ablate else schedule.noise_again,
        window=config.window,
    )


def describe_run(config: TrainConfig, data: DataConfig, model: ModelConfig, train: ShardSet) -> dict[str, Any]:
    """What config.json and each checkpoint say about the run."""
    return {
        "train_config": config.to_dict(),
        "data_config": asdict(data),
        "model_config": asdict(model),
        "dataset": {
            "fingerprint": train.fingerprint,
            "samples": len(train),
            "shards": str(config.shards),
            "classes": [[item.label, item.wnid, item.name] for item in train.classes],
        },
        "versions": versions(),
    }


def train(config: TrainConfig) -> None:
    """Set up, train, and say how it ended. Raises UserError (of any kind), MemoryError or OSError."""
    with contextlib.ExitStack() as stack:
        trainer = Trainer(config, stack)
        try:
            finished = trainer.run()
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}; {trainer.checkpoints.hint()}") from error
        folder, step = trainer.progress.folder, trainer.state.step
        if folder is not None and not finished:
            folder.write(STOPPED, {"step": step})  # tells a batch script that the run wants to go on
    how = "done" if finished else "stopped"
    command = "the same command" + (" without --resume-from" if config.resume_from else "")
    advice = "" if finished else f"; {command} goes on from there"
    logger.info("%s after step %d: checkpoint %s%s", how, step, trainer.checkpoints.path(LAST), advice)
