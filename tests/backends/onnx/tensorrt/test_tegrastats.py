from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.backends.onnx.tensorrt import tegrastats
from edgekit.backends.onnx.tensorrt.tegrastats import Rail
from edgekit.errors import DeviceError

TEXT = Path(__file__).with_name("samples").joinpath("tegrastats_variants.txt").read_text()
ORIN_NANO, AGX, THOR, NANO = TEXT.splitlines()


def test_orin_nano() -> None:
    reading = tegrastats.parse_line(ORIN_NANO)
    assert reading.time == "11-22-2026 10:00:00"
    assert (reading.ram_used_mb, reading.ram_total_mb, reading.swap_used_mb) == (3100, 7620, 0)
    assert reading.cpu == ((12, 1510), (8, 1510), (0, 1510), (3, 1510), None, None)
    assert (reading.gpu_percent, reading.gpu_mhz, reading.memory_controller_percent) == (87, (918,), 4)
    assert reading.celsius["gpu"] == 49.1 and len(reading.celsius) == 6
    assert set(reading.rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert reading.total == Rail(now_mw=9120, average_mw=8800)


def test_agx_orin_has_no_single_rail() -> None:
    reading = tegrastats.parse_line(AGX)
    assert (reading.gpu_percent, reading.gpu_mhz) == (12, (1300, 1300))
    assert reading.rails["VDD_GPU_SOC"] == Rail(now_mw=5139, average_mw=5139, max_mw=5139)
    assert reading.celsius == {"cpu": 52.9, "gpu": 47.6}
    assert reading.total is None and reading.swap_used_mb is None
    with pytest.raises(DeviceError, match="does not tell the power of the whole board") as caught:
        tegrastats.mean_power_mw([reading])
    assert caught.value.hint is not None and "VDD_GPU_SOC" in caught.value.hint
    assert tegrastats.mean_power_mw([reading], "VDD_GPU_SOC") == 5139


def test_thor_tells_no_load() -> None:
    reading = tegrastats.parse_line(THOR)
    assert reading.gpu_percent is None and reading.gpu_mhz == (1000, 1000, 1000)
    assert reading.cpu == () and reading.time is None
    assert reading.total == Rail(now_mw=41000, average_mw=40000, max_mw=43000)


def test_nano_has_no_units() -> None:
    reading = tegrastats.parse_line(NANO)
    assert reading.total == Rail(now_mw=933, average_mw=933)
    assert reading.rails["POM_5V_CPU"] == Rail(now_mw=84, average_mw=105)
    assert (reading.gpu_percent, reading.gpu_mhz) == (0, (76,))
    assert reading.celsius["PLL"] == 20.5


@pytest.mark.parametrize("load", ["0%", "31%", "10%@1300", "12%@[1300,1300]"])
def test_load_of_the_gpu(load: str) -> None:
    reading = tegrastats.parse_line(f"RAM 1/2MB (lfb 1x2MB) GR3D_FREQ {load} cpu@40C")
    assert reading.gpu_percent == int(load.partition("%")[0])


def test_sensors_that_are_off_are_left_out() -> None:
    reading = tegrastats.parse_line("RAM 1/2MB GR3D_FREQ 0% CV0@-256C cpu@-3.5C")
    assert reading.celsius == {"cpu": -3.5}


def test_memory_is_no_rail() -> None:
    line = (
        "RAM 1/2MB SWAP 3/4MB (cached 0MB) IRAM 0/252kB(lfb 252kB) GR3D_FREQ 0% GPU 155/160 SYS5V 1393/1400"
    )
    assert set(tegrastats.parse_line(line).rails) == {"GPU", "SYS5V"}


def test_all_lines_and_their_power() -> None:
    assert len(tegrastats.parse(TEXT)) == 4
    readings = tegrastats.parse(f"{ORIN_NANO}\n{ORIN_NANO.replace('9120', '9140')}\n")
    assert tegrastats.mean_power_mw(readings) == 9130


def test_the_last_line_may_be_cut_off_by_the_signal() -> None:
    for end in range(len(ORIN_NANO)):
        assert len(tegrastats.parse(f"{ORIN_NANO}\n{ORIN_NANO[:end]}")) == 1


@pytest.mark.parametrize(
    "text", ["", "\n", "sudo: a password is required\n", f"{ORIN_NANO}\nhello\n{ORIN_NANO}\n", "RAM 1/2MB\n"]
)
def test_what_is_no_reading(text: str) -> None:
    with pytest.raises(DeviceError, match="tegrastats"):
        tegrastats.parse(text)


def test_cores_are_read_strictly() -> None:
    with pytest.raises(DeviceError, match="shows a core as '12'"):
        tegrastats.parse_line(ORIN_NANO.replace("12%@1510", "12"))


def test_power_that_is_missing_from_one_reading() -> None:
    readings = [tegrastats.parse_line(ORIN_NANO), tegrastats.parse_line(AGX)]
    with pytest.raises(DeviceError):
        tegrastats.mean_power_mw(readings)
    with pytest.raises(DeviceError):
        tegrastats.mean_power_mw([])
