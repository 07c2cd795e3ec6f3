"""The simulated world: scene, tasks, physics and cameras."""
