"""Downloading images: from a list of URLs to files, and a ledger row for each."""
