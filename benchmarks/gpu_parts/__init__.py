"""The parts of ``gpu.py``: each runs in a process of its own, so that its memory is its own and none harms another."""
