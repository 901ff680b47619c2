"""Records into the messages of their requests."""
