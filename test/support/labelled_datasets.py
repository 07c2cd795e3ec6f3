"""Labelled copies of data sets."""

from training.add_progress_labels import Arguments, add_progress_labels


def labelled(source, target, **options):
    add_progress_labels(Arguments(source, target, **options))
    return target
