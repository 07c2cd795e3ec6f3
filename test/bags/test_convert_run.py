"""Conversions as processes: killed and resumed, full disks, what is there already, what is left behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import PATIENCE_S
from convert_recordings import IMAGE, START, event, recording, write_bag, write_mcap
from convert_results import convert

from training.convert_rosbags import parse
from training.datasets.video import frame_count


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Three recordings of one second."""
    folder = tmp_path_factory.mktemp("bags")
    for i in range(3):
        write_bag(folder / f"bag_{i}", recording(1.0, first=100 * i))
    return folder


def command(output, *inputs, **options):
    arguments = [sys.executable, "-m", "training.convert_rosbags", "--output", str(output), "--fps", "30"]
    arguments += ["--task", "stack", "--input", *map(str, inputs)]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return arguments


def test_a_conversion_that_is_killed_goes_on_and_ends_as_an_undisturbed_one(tmp_path, bags):
    long = tmp_path / "long"
    write_bag(long / "z_long", recording(6.0, kind=IMAGE, size=(240, 320)))
    for bag in bags.iterdir():
        (long / bag.name).symlink_to(bag)
    options = {"image_size": "48x64", "max_gap": 0.5}
    output, work = tmp_path / "ds", tmp_path / "ds.partial" / "work"
    process = subprocess.Popen(
        command(output, long, workers=2, **options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + PATIENCE_S
    while not list(work.glob("*/result.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout and process.stdout.read()
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    while any(os.path.exists(f"/proc/{child}") and _alive(child) for child in children):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    finished = {p.parent.name: p.stat().st_mtime_ns for p in work.glob("*/result.json")}
    assert finished and len(finished) < 4

    again = convert(output, long, **options)
    assert again.status == 1 and "--resume" in again.text and "--overwrite" in again.text
    other = convert(output, long, resume=True, **{**options, "max_gap": 0.3})
    assert other.status == 1 and "max_gap" in other.text
    settings = work.parent / "conversion.json"
    begun = settings.read_text()
    settings.write_text("[" * 100_000)
    damaged = convert(output, long, resume=True, **options)
    assert damaged.status == 1 and f"{settings}: cannot be read: " in damaged.text and "Traceback" not in damaged.text
    settings.write_text(begun)
    assert {p.parent.name: p.stat().st_mtime_ns for p in work.glob("*/result.json")} == finished
    resumed = convert(output, long, resume=True, **options)
    assert resumed.status == 0, resumed.text
    plain = convert(tmp_path / "plain", long, **options)
    assert np.array_equal(resumed.column("observation.state"), plain.column("observation.state"))
    assert resumed.numbers("head_camera") == plain.numbers("head_camera")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds", "long", "plain"]
    assert sorted(p.name for p in output.iterdir()) == [
        "conversion_report.html", "conversion_report.json", "data", "meta", "videos"
    ]  # fmt: skip


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("hard", [64, 4096])
def test_a_recording_of_many_files_needs_no_higher_limit_than_the_machine_s(tmp_path, hard):
    messages = sorted(recording(1.2), key=lambda m: m.received)
    for number in range(80):
        part = messages[number * len(messages) // 80 : (number + 1) * len(messages) // 80]
        write_mcap(tmp_path / "bag" / f"bag_{number}.mcap", part)
    result = subprocess.run(
        command(tmp_path / "ds", tmp_path / "bag", workers=1, dry_run=True),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)),
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    if hard == 64:
        assert "Too many open files" in result.stderr and "ulimit -n" in result.stderr, result.stderr
    else:
        assert "bag: 36 frames" in result.stdout, result.stderr


def test_a_full_disk_stops_the_conversion_and_it_goes_on_when_there_is_room(tmp_path, bags):
    write_bag(tmp_path / "bags" / "bag_9", recording(3.0))
    shutil.copytree(bags / "bag_0", tmp_path / "bags" / "bag_0")
    output = tmp_path / "ds"

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk, writing then fails with an error
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    result = subprocess.run(
        command(output, tmp_path / "bags", workers=1, gop=1, crf=0),
        preexec_fn=limited, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert result.returncode == 1
    assert "make room" in result.stderr and "--resume" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert not output.exists()
    run = convert(output, tmp_path / "bags", resume=True, gop=1, crf=0)
    assert run.status == 0, run.text
    assert len(run.episodes()) == 2


def test_a_data_set_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path, bags):
    output = tmp_path / "ds"
    assert convert(output, bags).status == 0
    (output / "mine.txt").write_text("mine")
    refused = convert(output, bags)
    assert refused.status == 1 and "--overwrite" in refused.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds"]
    failing = convert(output, bags, overwrite=True, max_gap=0.04, camera="head_camera=/nowhere")
    assert failing.status == 1 and (output / "mine.txt").exists()  # nothing came of it, so nothing is replaced
    replaced = convert(output, bags, overwrite=True)
    assert replaced.status == 0 and not (output / "mine.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds"]


def test_what_is_no_data_set_is_never_overwritten(tmp_path, bags):
    """A mistyped --output must not cost the recordings of a day."""
    output = tmp_path / "recordings"
    output.mkdir()
    (output / "precious.mcap").write_text("mine")
    for options in ({}, {"overwrite": True}):
        refused = convert(output, bags, **options)
        assert refused.status == 1 and "Traceback" not in refused.text
    assert "not overwritten: it has no meta/info.json" in refused.text
    assert (output / "precious.mcap").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recordings"]


@pytest.mark.parametrize("place", [".", "..", "ds"])
def test_an_output_that_is_an_input_or_holds_it_or_lies_in_it_is_refused(tmp_path, place):
    source = tmp_path / "rec" / "today"
    write_bag(source / "bag_0", recording(1.0))
    (tmp_path / "link").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    for given in (source, tmp_path / "link"):
        refused = convert(source / place, given, overwrite=True)
        assert refused.status == 1 and "the input is never modified" in refused.text
    refused = convert(source / "bag_0", source / "bag_0", overwrite=True)
    assert refused.status == 1 and "the input is never modified" in refused.text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_conversion_that_replaces_a_data_set_can_be_resumed_at_any_point(tmp_path, bags, monkeypatch):
    from training.bags import work_folder

    output = tmp_path / "ds"
    assert convert(output, bags).status == 0
    old = (output / "meta/info.json").stat().st_ino
    for fault in ("shutil.rmtree", "finish"):  # while it clears up, and before the move

        def killed(*_, **__):
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr("training.bags.work_folder." + fault, killed)
            if fault == "shutil.rmtree":
                spared = lambda path, **options: killed() if path.name == "work" else None  # noqa: E731
                patch.setattr(work_folder.shutil, "rmtree", spared)
            with pytest.raises(SystemExit):
                convert(output, bags, overwrite=True) if fault == "shutil.rmtree" else convert(
                    output, bags, resume=True
                )
        assert (output / "meta/info.json").stat().st_ino == old
    resumed = convert(output, bags, resume=True)
    assert resumed.status == 0 and "was complete" in resumed.text
    assert (output / "meta/info.json").stat().st_ino != old
    assert resumed.numbers("head_camera") == [*range(30), *range(100, 130), *range(200, 230)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds"]
    assert not (output / "conversion.json").exists() and not (output / "work").exists()


def test_a_dry_run_says_what_would_be_kept_and_writes_nothing(tmp_path, bags):
    messages = recording(3.0) + [event(0, START), event(1, START + 10**9), event(0, START + 2 * 10**9, "e2")]
    write_bag(tmp_path / "bags" / "events", messages)
    before = sorted(tmp_path.rglob("*"))
    run = convert(tmp_path / "ds", tmp_path / "bags", dry_run=True)
    assert run.status == 0
    assert "events e1: 31 frames" in run.text and "no stop event" in run.text
    assert "1 episodes of 31 frames would be kept; nothing was written" in run.text
    assert sorted(tmp_path.rglob("*")) == before


def test_several_processes_and_one_give_the_same_files(tmp_path, bags):
    one = convert(tmp_path / "one", bags, workers=1)
    two = convert(tmp_path / "two", bags, workers=2)
    names = [p.relative_to(one.root) for p in sorted(one.root.rglob("*")) if p.is_file() and p.parent != one.root]
    assert names == [
        p.relative_to(two.root) for p in sorted(two.root.rglob("*")) if p.is_file() and p.parent != two.root
    ]
    for name in names:
        assert (one.root / name).read_bytes() == (two.root / name).read_bytes(), name


def test_a_second_conversion_into_the_same_place_is_refused(tmp_path, bags):
    import fcntl

    (tmp_path / "ds.partial").mkdir()
    with (tmp_path / "ds.partial" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for options in ({"resume": True}, {"overwrite": True}, {}):
            run = convert(tmp_path / "ds", bags, **options)
            assert run.status == 1 and "another process is writing there" in run.text


def test_no_frame_is_lost_and_every_file_says_the_same(tmp_path, bags):
    run = convert(tmp_path / "ds", bags)
    info, episodes = run.info, run.episodes()
    assert info["total_frames"] == sum(e["length"] for e in episodes) == len(run.column("index")) == 90
    assert run.column("index").tolist() == list(range(90))
    assert run.numbers("right_color") == [*range(30), *range(100, 130), *range(200, 230)]
    for camera in ("head_camera", "left_color", "right_color"):
        key = f"observation.images.{camera}"
        assert frame_count(run.root / f"videos/{key}/chunk-000/file-000.mp4") == 90
        spans = [(e[f"videos/{key}/from_timestamp"], e[f"videos/{key}/to_timestamp"]) for e in episodes]
        assert spans == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    stats = json.loads((run.root / "meta/stats.json").read_text())
    state = run.column("observation.state").astype(np.float64)
    assert np.allclose(stats["observation.state"]["mean"], state.mean(0), atol=1e-6)
    assert np.allclose(stats["observation.state"]["std"], state.std(0), atol=1e-6)
    assert stats["observation.images.left_color"]["count"] == [90]


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_other_codecs_lose_no_frame_either(tmp_path, bags, codec):
    run = convert(tmp_path / "ds", bags, codec=codec, image_size="96x128")
    assert run.status == 0, run.text
    assert run.info["features"]["observation.images.left_color"]["info"]["video.codec"] == codec
    assert run.numbers("left_color") == [*range(30), *range(100, 130), *range(200, 230)]


def test_wrong_options_are_named(tmp_path, bags, capsys):
    for arguments, complaint in (
        (["--image-size", "224"], "HEIGHTxWIDTH"),
        (["--image-size", "223x224"], "even"),
        (["--max-gap", "0.01"], "--max-gap"),
        (["--resume", "--overwrite"], "only one"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(["--input", str(bags), "--output", str(tmp_path / "ds"), "--fps", "30", *arguments])
        assert stop.value.code == 2 and complaint in capsys.readouterr().err
    assert "unknown robot profile" in convert(tmp_path / "ds", bags, robot="r2d2").text
    assert "no instruction" in convert(tmp_path / "ds", bags, task=None).text
    bad = convert(tmp_path / "ds", bags, preset="warp")
    assert bad.status == 1 and "warp" in bad.text and not bad.root.exists()


def test_the_report_shows_rates_gaps_skews_and_pictures(tmp_path, bags):
    run = convert(tmp_path / "ds", bags)
    page = (run.root / "conversion_report.html").read_text()
    assert page.count("<img ") == 3 * 3 * 5
    facts = run.report["episodes"][0]["parts"][0]["inputs"]["left_arm"]
    assert facts["rate_hz"] == pytest.approx(200, abs=0.5) and facts["largest_gap_s"] == pytest.approx(0.005)
    assert run.report["settings"]["fps"] == 30
