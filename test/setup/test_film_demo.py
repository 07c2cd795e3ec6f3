"""The film of the demo: its pictures, its curve, its times, and that it appears whole."""

import importlib.util
import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence
from places import ROOT

from pi05_progress_msgs.msg import TaskProgress

PATH = ROOT / "scripts/film_demo.py"
spec = importlib.util.spec_from_file_location("film_demo", PATH)
film_demo = sys.modules["film_demo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(film_demo)

HEIGHT = 120  # of the curve, pixels
NAN = float("nan")


def shot(time_s, progress, grey=100, status=TaskProgress.ADVANCING):
    pictures = {key: np.full((36, 64, 3), grey, np.uint8) for key in ("head_camera", "left_color", "right_color")}
    message = TaskProgress(progress=progress, progress_raw=progress, lower=progress - 0.1, upper=progress + 0.1)
    message.status = status
    return film_demo.Shot(time_s, pictures, message)


def frames(data):
    """(picture, duration in ms) of a GIF."""
    with Image.open(io.BytesIO(data)) as image:
        return [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]


def test_a_film_has_a_frame_of_every_shot_and_plays_at_double_speed():
    shots = [shot(100.0, 0.0, 20), shot(100.4, 0.2, 120), shot(101.4, NAN, 240), shot(102.0, 1.0, 60)]
    seen = frames(film_demo.film(shots))
    assert [duration for _, duration in seen] == [200, 500, 300, 2000]
    for (picture, _), taken in zip(seen, shots, strict=True):
        assert picture.shape == (270 + 135 + 170, 480, 3)
        assert abs(int(picture[100, 240, 0]) - int(taken.pictures["head_camera"][0, 0, 0])) <= 8
        assert abs(int(picture[300, 400, 0]) - int(taken.pictures["right_color"][0, 0, 0])) <= 8


def test_a_film_may_have_a_single_shot():
    ((_, duration),) = frames(film_demo.film([shot(5.0, 0.1)]))
    assert duration == 2000


def line(picture):
    """Where the curve is drawn: (rows, columns) of pixels in its colour, which is mostly blue."""
    red, green, blue = (picture[..., n].astype(int) for n in range(3))
    return np.nonzero((blue - red > 100) & (blue - green > 30))


def test_the_curve_grows_on_axes_that_hold_all_of_it():
    shots = [shot(float(n), n / 10) for n in range(11)]
    part, whole = (film_demo.curve(shots, count, HEIGHT) for count in (6, 11))
    assert part.shape == whole.shape == (HEIGHT, 480, 3)
    (rows, columns), (all_rows, all_columns) = line(part), line(whole)
    assert columns.min() == pytest.approx(all_columns.min(), abs=1) and rows.max() == pytest.approx(
        all_rows.max(), abs=1
    )
    middle = (all_columns.min() + all_columns.max()) / 2
    assert columns.max() == pytest.approx(middle, abs=6)
    assert rows.min() == pytest.approx((all_rows.min() + all_rows.max()) / 2, abs=4)


@pytest.mark.parametrize("values", [[NAN], [NAN, NAN, NAN], [0.1, NAN, 0.5]])
def test_unknown_progress_leaves_a_gap_and_breaks_nothing(values):
    shots = [shot(float(n), value, status=TaskProgress.UNKNOWN) for n, value in enumerate(values)]
    assert film_demo.curve(shots, len(shots), HEIGHT).shape == (HEIGHT, 480, 3)
    assert sum(duration for _, duration in frames(film_demo.film(shots))) == 500 * (len(shots) - 1) + 2000


def test_where_nothing_can_be_written_is_said_before_filming(tmp_path, capsys):
    for out, said in ((tmp_path / "no/demo.gif", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(SystemExit):
            film_demo.parse(["--out", str(out)])
        assert said in capsys.readouterr().err
    assert film_demo.parse(["--out", str(tmp_path / "demo.gif")]).seconds == 60


def test_the_help_says_how_fast_it_plays(capsys):
    with pytest.raises(SystemExit):
        film_demo.parse(["--help"])
    assert "plays at double speed" in capsys.readouterr().out and film_demo.FAST == 2
