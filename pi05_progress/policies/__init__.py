"""Policies that answer with a checkpoint: the model policy, its compiled programs, and which backend computes."""
