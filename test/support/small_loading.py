"""Loaders of LeRobot's small data set for tests: 12, 30, 1 and 21 frames of two tasks, three cameras of 32x32."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from small_datasets import TWO_TASKS

from pi05_progress.models.config import tiny
from pi05_progress.units.tokenizer import ByteEncoder
from training.add_progress_labels import LabelOptions, add_progress_labels
from training.datasets import layout
from training.datasets.reader import array_of
from training.loading.config import DataConfig
from training.loading.loader import TrainLoader

MODEL = dataclasses.replace(tiny(), image_size=(28, 42), action_horizon=6)
LENGTHS = (12, 30, 1, 21)


def labelled(target, source=TWO_TASKS, **options):
    """A copy of a data set with progress labels, videos linked."""
    add_progress_labels(LabelOptions(source, target, **options))
    return target


def loader(*roots, model=MODEL, batch_size=8, seed=0, process=(0, 1), **config):
    """A loader of data sets."""
    config = DataConfig(repo_id=",".join(map(str, roots)), **config)
    index, count = process
    return TrainLoader(
        config, model, ByteEncoder(), batch_size=batch_size, seed=seed, process_index=index, process_count=count
    )


def arrays(batch):
    """All arrays of a batch by name."""
    found = {f"image {key}": image for key, image in batch.observation.images.items()}
    found |= {f"mask {key}": mask for key, mask in batch.observation.image_masks.items()}
    rest = ("state", "tokenized_prompt", "tokenized_prompt_mask", "progress", "progress_mask", "proprioception")
    found |= {name: getattr(batch.observation, name) for name in rest}
    found |= {name: getattr(batch, name) for name in ("actions", "action_is_pad", "action_weight", "origin")}
    return {name: array for name, array in found.items() if array is not None}


def assert_same(one, other):
    """The same batch in every array."""
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def take(batches, count):
    """The next batches."""
    return [next(batches) for _ in range(count)]


def origins(batches):
    """(data set, episode, frame) of every row."""
    return [tuple(row) for batch in batches for row in batch.origin.tolist()]


def prompts(batch):
    """The prompts of a batch, decoded."""
    return [
        bytes(token - 3 for token in row[mask][1:]).decode()
        for row, mask in zip(
            batch.observation.tokenized_prompt.tolist(), batch.observation.tokenized_prompt_mask.tolist(), strict=True
        )
        for row, mask in [(np.array(row), np.array(mask))]
    ]


def change_column(root, name, change):
    """Replace a column of every data file by ``change(values)``, arrays (n,) or (n, d)."""
    for path in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(path)
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        values = change(array_of(table[name], name).copy())
        flat = pa.array(values.reshape(-1), field.type.value_type if values.ndim == 2 else field.type)
        column = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        path.unlink()  # it may be linked
        pq.write_table(table.set_column(at, field, column), path)


def add_column(root, name, feature, values):
    """Give a data set one more column: ``values`` of all its frames, episode after episode."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][name] = feature
    path.unlink()  # it may be linked
    path.write_text(json.dumps(info))
    for file in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(file)
        own = np.asarray(values)[table["index"].to_numpy()]
        kind = layout.arrow_type(feature)
        if own.ndim == 1:
            column = pa.array(own, kind)
        else:
            column = pa.FixedSizeListArray.from_arrays(pa.array(own.reshape(-1), kind.value_type), type=kind)
        file.unlink()
        pq.write_table(table.append_column(name, column), file)
