"""A labelled copy of a data set: tables and metadata written anew, everything else linked or copied."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pi05_progress.errors import UserError
from pi05_progress.files.json_file import read_json

from ..datasets import layout
from ..datasets.progress_meta import EpisodeMeta, Labels, ProgressMeta, load_progress_meta, save_progress_meta
from ..datasets.reader import Dataset, DatasetError, array_of, open_parquet, read_parquet
from ..datasets.statistics import KEYS, Stats, feature_stats, flattened, pool_episodes, save_stats
from .labelling import EpisodeLabels, LabelSet

# Columns that labels had in any data set made here; the first one's name is the user's choice.
COLUMNS = {
    "progress": layout.PROGRESS_COLUMN,
    "valid": layout.VALID_COLUMN,
    "stage": layout.STAGE_COLUMN,
    "seconds_remaining": layout.SECONDS_REMAINING_COLUMN,
}
_DTYPES = {"progress": "float32", "valid": "bool", "stage": "int64", "seconds_remaining": "float32"}
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EROFS, errno.ENOTSUP, errno.ENOSYS)


def label_columns(labels: LabelSet, progress_column: str) -> dict[str, str]:
    """Names of the columns that will be written, by what they hold."""
    has_stage = any(of.stage is not None for of in labels.episodes.values())
    names = COLUMNS | {"progress": progress_column}
    return {what: name for what, name in names.items() if what != "stage" or has_stage}


def former_columns(dataset: Dataset, progress_column: str) -> list[str]:
    """Label columns that the data set has from an earlier labelling and that are replaced.

    Raises:
        UserError: ``progress_column`` is something else's name.
    """
    recorded = load_progress_meta(dataset.root).labels
    known = set(COLUMNS.values()) | (set(recorded.columns.values()) if recorded else set())
    for name in (progress_column, *COLUMNS.values()):
        feature = dataset.features.get(name)
        if feature is None:
            continue
        is_label = list(feature["shape"]) == [1] and feature["dtype"] in _DTYPES.values()
        if name not in known or not is_label:
            raise UserError(
                f"{dataset.root}: feature {name!r} ({feature['dtype']}, shape {list(feature['shape'])}) is no label of "
                "ours; choose another name with --column or rename that feature"
            )
    return [name for name in dataset.features if name in known]


def write_labelled(
    dataset: Dataset,
    folder: Path,
    labels: LabelSet,
    *,
    facts: Mapping[int, EpisodeMeta],
    record: Labels,
    copy_videos: bool = False,
    progress: Callable[[int], None] = lambda frames: None,
) -> None:
    """Write the data set with labels into an empty folder; its own files are only read.

    Args:
        facts: outcomes and milestones of every episode, kept in ``meta/progress.json``.
        record: method, arguments and columns, kept there, too.
        progress: called with the number of frames after every episode.

    Raises:
        DatasetError: the data set is damaged.
        OSError: the disk is full, say.
    """
    former = former_columns(dataset, record.columns["progress"])
    kept = {name: feature for name, feature in dataset.features.items() if name not in former}
    added = {name: layout.scalar(_DTYPES[what]) for what, name in record.columns.items()}
    _carry_over(dataset.root, folder, copy_videos)
    writer = _DataWriter(dataset, folder, labels, record.columns, kept, added, progress)
    stats = writer.write()
    _write_episodes(dataset, folder, stats, set(former))
    _write_meta(dataset, folder, {**kept, **added}, stats)
    known = {index: fact for index, fact in facts.items() if fact != EpisodeMeta()}
    save_progress_meta(folder, ProgressMeta(known, replace(record, stages=labels.stages)))


def _carry_over(root: Path, folder: Path, copy_videos: bool) -> None:
    """Everything that is not written anew; links in the input are followed, hidden folders left behind."""
    written = {layout.INFO, layout.STATS, layout.PROGRESS, layout.SARM_PROGRESS}
    for source in _files(root):
        name = source.relative_to(root)
        text = name.as_posix()
        if text in written or text.startswith((layout.DATA + "/", layout.EPISODES + "/")):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # only what nobody edits in place is linked: a link shares its contents with the input
        if name.parts[0] in (layout.VIDEOS, "images") and not copy_videos:
            try:
                os.link(os.path.realpath(source), target)
                continue
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
        shutil.copyfile(source, target)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files))


@dataclass(frozen=True)
class _DataWriter:
    """Writes the files with frames, a row group per episode, and ``sarm_progress.parquet``; gathers statistics."""

    dataset: Dataset
    folder: Path
    labels: LabelSet
    columns: Mapping[str, str]  # of labels, by what they hold
    kept: Mapping[str, layout.Feature]
    added: Mapping[str, layout.Feature]
    progress: Callable[[int], None]

    def write(self) -> dict[int, dict[str, Stats]]:
        """Write; returns statistics of the labels per episode, and of features that had none."""
        stats: dict[int, dict[str, Stats]] = {}
        without_stats = _features_without_stats(self.dataset, self.kept)
        sarm = pa.schema(
            [("index", pa.int64()), ("episode_index", pa.int64()), ("frame_index", pa.int64()),
             ("progress_sparse", pa.float32())]
        )  # fmt: skip
        with pq.ParquetWriter(self.folder / layout.SARM_PROGRESS, sarm) as sarm_writer:
            for path in self.dataset.data_files():
                target = self.folder / path.relative_to(self.dataset.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_parquet(path) as file:
                    schema = self._schema(path, file.schema_arrow)
                    with pq.ParquetWriter(target, schema, **layout.compression(schema)) as writer:
                        for episode, table in self.dataset.tables(path, file):
                            if episode.index in stats:
                                raise DatasetError(f"{path}: episode {episode.index} is in an earlier file, too")
                            labels = self.labels.episodes[episode.index]
                            arrays = {name: getattr(labels, what) for what, name in self.columns.items()}
                            columns = [pa.array(arrays[n]) if n in arrays else table[n] for n in schema.names]
                            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                            stats[episode.index] = {name: feature_stats(values) for name, values in arrays.items()}
                            for name in without_stats:
                                stats[episode.index][name] = self._stats_of(path, episode.index, name, table)
                            if labels.valid.any():
                                sarm_writer.write_table(_sarm(table, labels, sarm))
                            self.progress(episode.length)
        self.dataset.refuse_missing(stats)
        return stats

    def _stats_of(self, path: Path, index: int, name: str, table: pa.Table) -> Stats:
        values = array_of(table[name], f"{path}: {name}")
        try:
            return feature_stats(values)
        except (ValueError, TypeError) as error:
            raise DatasetError(
                f"{path}: {name} of episode {index}: {error}. {layout.STATS} has no statistics of it, so they were to "
                "be made; repair the feature, or remove it with LeRobot's lerobot-edit-dataset"
            ) from error

    def _schema(self, path: Path, schema: pa.Schema) -> pa.Schema:
        columns = {name for name, feature in self.kept.items() if feature["dtype"] != "video"}
        if missing := columns - set(schema.names):
            raise DatasetError(f"{path}: no column {', '.join(sorted(missing))}, which {layout.INFO} promises")
        fields = [field for field in schema if field.name in columns]
        fields += [pa.field(name, layout.arrow_type(feature)) for name, feature in self.added.items()]
        return pa.schema(fields, metadata=self._metadata(path, schema.metadata or {}))

    def _metadata(self, path: Path, metadata: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The file's metadata, with the columns as they are now where ``datasets`` described them."""
        # pandas' description would name columns that are gone, and it says nothing that a data file needs
        metadata = {key: value for key, value in metadata.items() if key != b"pandas"}
        if b"huggingface" not in metadata:
            return metadata
        try:
            described = json.loads(metadata[b"huggingface"])
            features = described["info"]["features"]
            kept = {name: value for name, value in features.items() if name in self.kept}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DatasetError(f"{path}: its metadata under 'huggingface' is damaged: {error!r}") from error
        added = {name: layout.huggingface_feature(feature) for name, feature in self.added.items()}
        described["info"]["features"] = kept | added
        described.pop("fingerprint", None)  # of the contents before
        return metadata | {b"huggingface": json.dumps(described).encode()}


def _features_without_stats(dataset: Dataset, kept: Mapping[str, layout.Feature]) -> list[str]:
    """Features with columns of numbers but without statistics, as LeRobot's add_features leaves them."""
    path = dataset.root / layout.STATS
    known = _stats(path)
    numbers = [name for name, f in kept.items() if f["dtype"] not in ("video", "image", "string", "language")]
    return [name for name in numbers if name not in known and len(kept[name]["shape"]) == 1]


def _stats(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def _sarm(table: pa.Table, labels: EpisodeLabels, schema: pa.Schema) -> pa.Table:
    """Unlabelled frames are left out: LeRobot takes its fallback weight for them."""
    names = ("index", "episode_index", "frame_index")
    rows = [*(table[name] for name in names), pa.array(labels.progress)]
    return pa.Table.from_arrays(rows, schema=schema).filter(pa.array(labels.valid))


def _write_episodes(dataset: Dataset, folder: Path, stats: Mapping[int, Mapping[str, Stats]], former: set[str]) -> None:
    for path in sorted((dataset.root / layout.EPISODES).glob("*/*.parquet")):
        table = read_parquet(path)
        new = [flattened(stats[index]) for index in table["episode_index"].to_pylist()]
        replaced = {name for row in new for name in row}
        gone = {f"stats/{name}/{key}" for name in former for key in KEYS} | replaced
        table = table.select([name for name in table.column_names if name not in gone])
        for name in dict.fromkeys(name for row in new for name in row):
            kind = pa.list_(pa.int64() if name.endswith("/count") else pa.float64())
            table = table.append_column(name, pa.array([row[name] for row in new], kind))
        metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
        target = folder / path.relative_to(dataset.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata or None), target, compression="snappy")


def _write_meta(
    dataset: Dataset,
    folder: Path,
    features: Mapping[str, layout.Feature],
    stats: Mapping[int, Mapping[str, Stats]],
) -> None:
    (folder / layout.INFO).write_text(
        json.dumps({**dataset.info, "features": dict(features)}, indent=4), encoding="utf-8"
    )
    new = pool_episodes([stats[episode.index] for episode in dataset.episodes])
    kept = {
        name: of for name, of in _stats(dataset.root / layout.STATS).items() if name in features and name not in new
    }
    save_stats(folder, {**kept, **new})
