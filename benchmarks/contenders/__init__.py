"""What is compared: each function takes a specification and returns the work to be timed."""
