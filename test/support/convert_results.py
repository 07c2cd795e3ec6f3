"""Running the converter in tests and looking at what it made."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
from convert_recordings import number_of

from training.convert_rosbags import main


@dataclass
class Run:
    """What a conversion printed, and its data set, if there is one."""

    status: int
    text: str
    root: Path

    @property
    def report(self):
        return json.loads((self.root / "conversion_report.json").read_text())

    @property
    def info(self):
        return json.loads((self.root / "meta/info.json").read_text())

    @property
    def progress(self):
        return json.loads((self.root / "meta/progress.json").read_text())

    def column(self, name):
        files = sorted((self.root / "data").rglob("*.parquet"))
        return np.concatenate([np.stack(pq.read_table(file, columns=[name])[name].to_numpy()) for file in files])

    def episodes(self):
        return [
            row
            for f in sorted((self.root / "meta/episodes").rglob("*.parquet"))
            for row in pq.read_table(f).to_pylist()
        ]

    def images(self, camera):
        """All pictures of a camera, in order, through the files' own time stamps."""
        found = []
        for file in sorted((self.root / f"videos/observation.images.{camera}").rglob("*.mp4")):
            with av.open(str(file)) as container:
                for i, frame in enumerate(container.decode(video=0)):
                    assert abs(frame.time - i / self.info["fps"]) < 1e-6
                    found.append(frame.to_ndarray(format="rgb24"))
        return found

    def numbers(self, camera):
        """The numbers in a camera's pictures."""
        return [number_of(image) for image in self.images(camera)]


def only(folder, suffix):
    """The file of a folder that ends so."""
    return next(path for path in folder.iterdir() if path.suffix == suffix)


def convert(output, *inputs, fps=30, task="stack", workers=1, **options):
    """Run the converter in this process."""
    arguments = ["--input", *map(str, inputs), "--output", str(output), "--fps", str(fps), "--workers", str(workers)]
    arguments += ["--task", task] if task else []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = main(arguments)
    return Run(status, text.getvalue(), Path(output))
