"""Data sets to batches: rows of LeRobot data sets become what the model reads, in an order that a seed decides."""
