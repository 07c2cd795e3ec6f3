"""How fields of configurations look on a command line: tyro's marks.

Configurations are used without a command line, too, where tyro is not installed (``benchmarks/gpu.py``): there the
marks mean nothing.
"""

from __future__ import annotations

try:
    from tyro.conf import AvoidSubcommands, Fixed, SuppressFixed, arg
except ModuleNotFoundError:
    NO_FLAG, NOT_SHOWN, ALWAYS_THERE, ALSO_CACHE = "no flag", "not in the help", "always there", "--cache"
else:
    NO_FLAG, NOT_SHOWN = Fixed, SuppressFixed
    ALWAYS_THERE = AvoidSubcommands  # what may be None is given by its fields, not by a command of its own
    ALSO_CACHE = arg(aliases=["--cache"])
