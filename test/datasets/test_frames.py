"""Pictures of videos: read alike by PyAV and, on machines without it, by OpenCV."""

import numpy as np
import pytest

from training.datasets.frames import OpenCvReader, PictureError, VideoReader
from training.datasets.video import VideoFile, VideoOptions

FPS = 10
ORDER = (0, 1, 2, 7, 3, 39, 38, 12, 0)  # onwards, skipping, and back


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Forty pictures, each with a bar at a place of its own, of a colour that no other channel order has."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoFile(path, FPS, VideoOptions(crf=10, gop=15)) as file:
        for number in range(40):
            image = np.full((32, 48, 3), (30, 60, 90), np.uint8)
            image[:, number : number + 6] = (220, 120, 20)
            file.write(image)
    return path


def test_opencv_gives_the_pictures_that_pyav_gives(video):
    theirs = OpenCvReader(video, FPS)
    for number in ORDER:
        with VideoReader(video, FPS) as ours:
            one = ours.read(number / FPS)
        other = theirs.read(number / FPS)
        assert np.abs(one.astype(int) - other).max() <= 12  # two conversions of the same YUV picture
        assert abs(int(other[16, number + 3, 0]) - 220) < 25 and abs(int(other[16, number + 3, 2]) - 20) < 25
    theirs.close()


def test_opencv_names_a_file_that_is_damaged_or_ends_too_soon(video, tmp_path):
    reader = OpenCvReader(video, FPS)
    with pytest.raises(PictureError, match=r"no picture at 5\.000 s"):
        reader.read(5.0)
    assert reader.read(0.3).shape == (32, 48, 3)  # what is there can still be read
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(PictureError, match=r"bad\.mp4: cannot be opened by OpenCV"):
        OpenCvReader(tmp_path / "bad.mp4", FPS)
