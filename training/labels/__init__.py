"""Progress labels: how far each frame of an episode is, by several methods, and writing them into a data set."""
