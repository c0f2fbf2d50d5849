"""The tasks, and the plain functions they call: the work of the pipelines."""
