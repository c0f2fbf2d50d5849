"""One module per image format: a walk over the parts of a file that decodes nothing and keeps next to nothing."""
