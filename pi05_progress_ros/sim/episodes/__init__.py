"""Simulated episodes as bags, and the facts about them."""
