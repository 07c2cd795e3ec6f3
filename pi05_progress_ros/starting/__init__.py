"""What launch files, ``run`` and the demo start, and how processes are started and ended."""
