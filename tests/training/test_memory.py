"""Freed memory stays with the process, and is used again, once that was asked for."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.step import advising_on_memory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import resource, sys, torch
from training.step import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first, second = torch.ones(25_000_000), torch.ones(12_000_000)
    del first
    third = torch.ones(20_000_000)
    del second, third
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Page faults of the tenth time that tensors of 100, 48 and 80 MB are made and dropped."""
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_of_the_same_sizes_meet_no_new_pages_after_a_few_turns() -> None:
    assert page_faults("as it is") > 10_000
    assert page_faults("keep") < 500


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nadvice"), MemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), MemoryError),
        (MemoryError(), MemoryError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_only_failed_allocations_get_advice(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, advising_on_memory():
        raise error
    assert ("--batch-size" in str(caught.value)) == (kind is MemoryError)
    assert "\n" not in str(caught.value)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import step

    monkeypatch.setattr(step.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert step.keep_freed_memory() is False
