"""Files and folders as every part of the project reads, writes and guards them."""
