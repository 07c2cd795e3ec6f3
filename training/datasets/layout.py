"""Where things are in a LeRobot v3.0 data set, what they are called, and which types they have.

Names and types only: nothing in here reads or writes a data set. Written down from what LeRobot 0.6.1 reads and writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

CODEBASE_VERSION = "v3.0"
CHUNK_SIZE = 1000  # files per chunk folder
DATA_FILE_MB = 100  # LeRobot starts another file beyond these sizes
VIDEO_FILE_MB = 200

INFO = "meta/info.json"
MARKERS = (INFO,)  # what has it is a data set, which a tool may replace where it is told to
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes"
PROGRESS = "meta/progress.json"  # ours: outcomes, milestones, how labels were made
DATA = "data"
VIDEOS = "videos"
SARM_PROGRESS = "sarm_progress.parquet"  # LeRobot's reward-weighted training reads progress here
NORM_STATS = "norm_stats.json"  # openpi's normalisation statistics

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

STATE = "observation.state"
ACTION = "action"
IMAGES = "observation.images."  # followed by the camera's key
DONE = "next.done"
SUCCESS = "next.success"

PROGRESS_COLUMN = "observation.progress"  # the default; a tool's --column may choose another name
VALID_COLUMN = "progress.valid"
STAGE_COLUMN = "progress.stage"
SECONDS_REMAINING_COLUMN = "progress.seconds_remaining"
TRUTH_POSITIONS = "truth.positions"  # of objects, m in the robot's base frame; from a simulation
DEMONSTRATION_VALID = "demonstration.valid"  # whether a frame's action is to be imitated
INTERVENTION = "intervention"  # whether the operator commanded in a frame, in an episode of a policy
DEMONSTRATION_ACTIONS = "demonstration.actions"  # the chunk that was right where another was executed
OTHER_LABELS = (VALID_COLUMN, STAGE_COLUMN, SECONDS_REMAINING_COLUMN)

# Names by which LeRobot knows what a feature is; a label of such a name would be taken for something else.
RESERVED = (STATE, "observation.environment_state", "task", "subtask", "language_persistent", "language_events")
RESERVED_BEGINNINGS = ("observation.image", ACTION, "next.")
PADDING_END = "_is_pad"  # says which rows of a chunk lie beyond the episode's end

Feature = dict[str, Any]  # dtype, shape, names; videos also have info


def scalar(dtype: str) -> Feature:
    """The feature of one number per frame; its column is plain, not a list."""
    return {"dtype": dtype, "shape": [1], "names": None}


def vector(names: Sequence[str], dtype: str = "float32") -> Feature:
    """The feature of one number per name; its column holds lists of that length."""
    return {"dtype": dtype, "shape": [len(names)], "names": list(names)}


# Every data set has these columns. timestamp: seconds since the episode's start; index: counts through the data set.
DEFAULT_FEATURES: dict[str, Feature] = {
    "timestamp": scalar("float32"),
    "frame_index": scalar("int64"),
    "episode_index": scalar("int64"),
    "index": scalar("int64"),
    "task_index": scalar("int64"),
}


def arrow_type(feature: Feature) -> pa.DataType:
    """Type of a feature's column; a ``ValueError`` for videos, which have none, for images, and for several axes."""
    dtype, shape = feature["dtype"], list(feature["shape"])
    if dtype in ("video", "image") or len(shape) != 1:
        raise ValueError(f"a feature of dtype {dtype!r} and shape {shape} has no plain column")
    value = pa.string() if dtype == "string" else pa.bool_() if dtype == "bool" else pa.type_for_alias(dtype)
    return value if shape == [1] else pa.list_(value, shape[0])


def arrow_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Schema of data files with the metadata that Hugging Face's ``datasets`` leaves there; videos have no column."""
    columns = {name: feature for name, feature in features.items() if feature["dtype"] != "video"}
    schema = pa.schema([pa.field(name, arrow_type(feature)) for name, feature in columns.items()])
    described = {name: huggingface_feature(feature) for name, feature in columns.items()}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": described}})})


def compression(schema: pa.Schema) -> dict[str, Any]:
    """How data files are compressed: numbers of vectors hardly repeat, but their first bytes do."""
    vectors = [field for field in schema if pa.types.is_fixed_size_list(field.type)]
    floats = [field.name for field in vectors if pa.types.is_floating(field.type.value_type)]
    plain = [field.name for field in schema if field not in vectors]
    split = [f"{name}.list.element" for name in floats]
    return {"compression": "zstd", "use_dictionary": plain, "use_byte_stream_split": split}


def huggingface_feature(feature: Feature) -> dict[str, Any]:
    """How ``datasets`` describes a feature of one axis in a file's metadata."""
    value = {"dtype": feature["dtype"], "_type": "Value"}
    shape = list(feature["shape"])
    return value if shape == [1] else {"feature": value, "length": shape[0], "_type": "List"}


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Contents of ``meta/tasks.parquet``: task ``i`` has index ``i``.

    LeRobot reads it with pandas and wants the text as the index, which the metadata says.
    """
    keys = ("name", "field_name", "pandas_type", "numpy_type", "metadata")
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [dict(zip(keys, (None, None, "unicode", "object", {"encoding": "UTF-8"}), strict=True))],
        "columns": [
            dict(zip(keys, (name, name, *kinds, None), strict=True))
            for name, *kinds in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(pandas)})
    return pa.table({"task_index": range(len(tasks)), "task": list(tasks)}, schema=schema)


def info(features: Mapping[str, Feature], *, fps: int, robot_type: str | None, **totals: int) -> dict[str, Any]:
    """Contents of ``meta/info.json``: features completed by the default ones, every episode in the split "train".

    ``totals`` are ``total_episodes``, ``total_frames`` and ``total_tasks``.
    """
    features = {**features, **DEFAULT_FEATURES}
    has_videos = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": CODEBASE_VERSION,
        "fps": fps,
        "features": features,
        **totals,
        "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if has_videos else None,
        "robot_type": robot_type,
        "splits": {"train": f"0:{totals['total_episodes']}"},
    }
