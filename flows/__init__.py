"""The flows: what a user deploys, schedules and sees in the UI."""
