"""The simulated robot: its arms behind the real robot's rules, and what it publishes."""
