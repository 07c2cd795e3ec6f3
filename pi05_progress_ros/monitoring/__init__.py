"""The monitor: what it has seen, and how a terminal shows it."""
