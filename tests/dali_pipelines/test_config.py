"""What `DataConfig` refuses, and which epochs have noise."""

import dataclasses

import pytest

from dali_pipelines import DataConfig


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("recipe", "seed", "is one of original, paper"),
        ("batch_size", 0, "is at least 1"),
        ("seed", -1, "is at least 0"),
        ("seed", 2**63, f"is at most {2**63 - 1}"),
        ("normalize", "zero", "is one of recipe, imagenet, none"),
        ("device", "gpu", "is cpu, cuda or cuda:N"),
        ("device", "cuda:", "is cpu, cuda or cuda:N"),
        ("noise_epochs", -1, "is at least 0"),
        ("window", 0, "is at least 1"),
        ("output", "float16", "is one of float32, uint8"),
        ("prefetch", 0, "is at least 1"),
        ("threads", -1, "is at least 0"),
        ("hardware_decoder_load", 0.5, "is one of 0, 1"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_the_rule(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError) as raised:
        DataConfig(**{field: value})
    assert str(raised.value) == f"{field} {expected}, got {value!r}"


def test_views_are_one_or_ten_and_ten_only_for_evaluation() -> None:
    with pytest.raises(ValueError, match="views is one of 1, 10, got 5"):
        DataConfig(views=5, training=False)
    with pytest.raises(ValueError, match="views 10 with training"):
        DataConfig(views=10)
    assert DataConfig(views=10, training=False).views == 10


@pytest.mark.parametrize(
    ("options", "noisy"),
    [
        ({}, [True, True, True]),
        ({"noise_epochs": 2}, [True, True, False]),
        ({"noise_epochs": 0, "noise_again": (1, 2)}, [False, True, False]),
        ({"noise_epochs": 0}, [False, False, False]),
        ({"augment": False}, [False, False, False]),
        ({"training": False}, [False, False, False]),
    ],
)
def test_which_epochs_have_noise(options: dict[str, object], noisy: list[bool]) -> None:
    config = DataConfig(**options)
    assert [config.has_noise(epoch) for epoch in range(3)] == noisy


@pytest.mark.parametrize(("device", "is_cuda"), [("cpu", False), ("cuda", True), ("cuda:12", True)])
def test_devices(device: str, is_cuda: bool) -> None:
    assert DataConfig(device=device).is_cuda is is_cuda


def test_a_config_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataConfig().batch_size = 3  # type: ignore[misc]
