"""What a job says on the way, without a terminal: plain lines, half a minute apart, and a last one."""

import pytest

from sharding.executor import progress_bar


def test_a_line_every_half_minute_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with progress_bar(10_000, "train", done=4_000) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.update(50)
    assert capsys.readouterr().err.splitlines() == [
        "train: 5,500 of 10,000 images, 50.00 image/s, 01:30 left",
        "train: 7,000 of 10,000 images, 50.00 image/s, 01:00 left",
        "train: 8,500 of 10,000 images, 50.00 image/s, 00:30 left",
        "train: 9,000 of 10,000 images, 50.00 image/s, 00:20 left",
    ]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10, "train", quiet=True) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""
