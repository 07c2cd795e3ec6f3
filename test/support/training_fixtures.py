"""Fixtures of tests that convert, load data, train or evaluate; what they need is imported when they are used."""

import pytest


@pytest.fixture(scope="module")
def quick_training(tmp_path_factory):
    """Programs of training are compiled once, and not optimised."""
    from training_runs import quick_programs

    with quick_programs(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """LeRobot's data set of four episodes with labels; the last one failed. Only read."""
    from small_datasets import facts, lerobot_copy
    from small_loading import labelled

    folder = tmp_path_factory.mktemp("data")
    source = lerobot_copy(folder)
    facts(source, e3=("FAILURE", {}))
    return labelled(folder / "labelled", source)


@pytest.fixture(scope="module")
def load(data, tmp_path_factory):
    """Makes loaders of it, or of others, with a cache of pictures."""
    from small_loading import loader

    cache = tmp_path_factory.mktemp("cache")
    return lambda *roots, **options: loader(*(roots or (data,)), cache=cache, **options)


@pytest.fixture(scope="module")
def sound():
    """Messages of a small recording that is sound; do not change them."""
    from convert_recordings import sparse_recording

    return sparse_recording()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small checkpoint that knows how long its training episodes were."""
    from small_evaluation import save_trained

    return save_trained(tmp_path_factory.mktemp("checkpoint") / "c")


@pytest.fixture
def dataset(tmp_path):
    """LeRobot's small data set: tasks of 12 and 1, and of 30 and 21 frames, 10 frames/s; one episode has failed."""
    from small_evaluation import with_failure

    return with_failure(tmp_path)
