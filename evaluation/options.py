"""The options that evaluation and report share: which run, which checkpoint of it, which shards, which device."""

import argparse
from pathlib import Path

import torch

from evaluation.trained_run import EvaluationError


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add --run-dir, --checkpoint, --shards and --device."""
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="FILE",
        help="last (default), best (chosen on val, so it flatters val), or a checkpoint file",
    )
    parser.add_argument(
        "--shards", type=Path, metavar="DIR", help="folder of the packed splits (default: where it was trained from)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU if there is one"
    )


def device_type(name: str) -> str:
    """ "cuda" or "cpu" for --device. Raises EvaluationError for a GPU that is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise EvaluationError("--device cuda, but torch sees no GPU here; use --device cpu")
    return ("cuda" if there else "cpu") if name == "auto" else name


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)
