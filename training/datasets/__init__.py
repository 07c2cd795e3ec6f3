"""Data sets in LeRobot's v3.0 format: paths, reading, statistics, and what is known about episodes."""
