"""Batches become new parameters: loss, optimiser, sharding over devices, and what all of it needs in memory."""
