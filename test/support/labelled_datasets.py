"""Labelled copies of data sets."""

from training.add_progress_labels import LabelOptions, add_progress_labels


def labelled(source, target, **options):
    add_progress_labels(LabelOptions(source, target, **options))
    return target
