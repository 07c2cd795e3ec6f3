"""Recipes: named training configurations, a small file each."""
