"""Each speed claim as a program that can be run again, beside its peers."""
