"""The dashboards' pictures: numbers as people read them, and a board drawn from given answers."""

import math
import time

import pytest
from monitoring.board import Unit
from monitoring.boards import BOARDS
from monitoring.pictures import draw, shown
from PIL import Image


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0, Unit.SECONDS, "0 ms"), (0.0456, Unit.SECONDS, "45.6 ms"), (2.5, Unit.SECONDS, "2.5 s"),
     (600, Unit.SECONDS, "10 min"), (86400 * 30, Unit.SECONDS, "30 d"),
     (0.934, Unit.RATIO, "93%"), (0.001, Unit.RATIO, "0.10%"), (3 << 20, Unit.BYTES, "3 MiB/s"),
     (12.0, Unit.REQUESTS, "12/s"), (7, Unit.COUNT, "7"), (math.nan, Unit.COUNT, "no data"),
     (math.inf, Unit.SECONDS, "more")],
)  # fmt: skip
def test_a_number_reads_as_a_person_would_write_it(value, unit, text):
    assert shown(value, unit) == text


class Prometheus:
    """Answers every query with two series, one of them without a number."""

    rate_interval = "10s"

    def ask(self, path, **parameters):
        begin_s = float(parameters["start"])
        times = [begin_s + 0.5 * step for step in range(20)]
        some = [[at, str(index % 5)] for index, at in enumerate(times)]
        none = [[at, "NaN"] for at in times]
        return {
            "result": [
                {"metric": {"le": "0.1", "role": "decode"}, "values": some},
                {"metric": {"le": "+Inf", "role": "encode"}, "values": none},
            ]
        }


@pytest.mark.parametrize("board", BOARDS[1:3], ids=lambda board: board.uid)
def test_a_board_becomes_a_small_picture(board, tmp_path):
    file = tmp_path / "board.png"
    draw(board, Prometheus(), time.time() - 10, file)
    with Image.open(file) as picture:
        assert picture.width > 800
        assert len(picture.getcolors(1 << 16)) > 5
    assert file.stat().st_size < 200_000
