"""The scripted expert that does the tasks, its faults, and the operator it stands for."""
