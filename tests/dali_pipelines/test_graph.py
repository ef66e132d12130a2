"""The graph for a GPU, made without one: every operator after the sources is on the GPU, decoding is "mixed"."""

from dataclasses import replace

import numpy as np
import pytest

from dali_pipelines import DataConfig
from dali_pipelines.graph import Source, batch_graph, fed_choices
from sharding import Statistics

GRAPHS = [
    DataConfig(device="cuda:1", threads=2),
    DataConfig(device="cuda", threads=2, recipe="paper"),
    DataConfig(device="cuda", threads=2, output="uint8"),
    DataConfig(device="cuda", threads=2, training=False, views=10),
]


def never() -> tuple[object, ...]:
    raise AssertionError("the graph is only made, never run")


def small(statistics: Statistics) -> Statistics:
    """A graph holds the mean image: of 2×2 pixels it is described sooner."""
    return replace(statistics, mean_image=statistics.mean_image[:2, :2])


def operators(config: DataConfig, statistics: Statistics, encoding: str) -> list[tuple[str, str]]:
    """(operator, device of its output) of each operator of the graph, in the order of execution."""
    source: Source = never
    pipeline = batch_graph(config, small(statistics), encoding, source, 4)
    pipeline._build_graph()
    found = []
    for operator in pipeline._ops:
        (output,) = operator.outputs[:1]
        found.append((operator.name.strip("_").rpartition("_")[0], output.device))
    return found


@pytest.mark.parametrize("config", GRAPHS)
def test_everything_after_the_sources_is_on_the_gpu(config: DataConfig, statistics: Statistics) -> None:
    found = operators(config, statistics, "jpeg")
    sources = [device for name, device in found if name == "ExternalSource"]
    assert sources == ["cpu"] * (1 + fed_choices(config))
    rest = [(name, device) for name, device in found if name != "ExternalSource"]
    assert {device for _, device in rest} == {"gpu"}
    names = [name for name, _ in rest]
    assert names.count("Image") == 1  # decoded once, whatever the number of views
    crops = config.views * (1 if config.output == "uint8" else 2)
    assert names.count("CropMirrorNormalize") == crops
    assert names.count("Constant") == (config.output == "float32")
    assert names.count("Stack") == (config.views == 10)


@pytest.mark.parametrize("config", GRAPHS)
def test_the_same_graph_for_the_cpu_has_the_same_operators_on_the_cpu(
    config: DataConfig, statistics: Statistics
) -> None:
    options = {field: getattr(config, field) for field in ("recipe", "output", "training", "views", "threads")}
    gpu = operators(config, statistics, "jpeg")
    cpu = operators(DataConfig(device="cpu", **options), statistics, "jpeg")
    assert sorted(name for name, _ in cpu) == sorted(name for name, _ in gpu)
    assert {device for _, device in cpu} == {"cpu"}


def test_decoding_is_mixed_with_the_hardware_share_and_no_exif_rotation(statistics: Statistics) -> None:
    config = DataConfig(device="cuda", threads=2, hardware_decoder_load=1.0)
    pipeline = batch_graph(config, small(statistics), "jpeg", never, 4)
    assert pipeline.device_id == 0
    pipeline._device_id = None  # to be written down without a GPU
    described = pipeline.serialize()
    decoder = described[described.index(b"decoders__Image") :].partition(b"CropMirrorNormalize")[0]
    assert b"mixed" in decoder and b"cpu" in decoder.partition(b"mixed")[0]  # bytes from the CPU
    assert np.float32(1.0).tobytes() in decoder.partition(b"hw_decoder_load")[2][:24]
    assert b"adjust_orientation" in decoder and b"jpeg_fancy_upsampling" in decoder


def test_raw_pixels_travel_to_the_gpu_and_meet_no_decoder(statistics: Statistics) -> None:
    found = operators(DataConfig(device="cuda", threads=2), statistics, "raw")
    rest = [(name, device) for name, device in found if name != "ExternalSource"]
    crop = ("CropMirrorNormalize", "gpu")
    assert rest == [crop, ("Constant", "gpu"), crop, ("ArithmeticGenericOp", "gpu")]


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_the_graph_is_for_the_device_that_was_asked_for(device: str, number: int, statistics: Statistics) -> None:
    pipeline = batch_graph(DataConfig(device=device, threads=1), small(statistics), "jpeg", never, 4)
    assert pipeline.device_id == number
