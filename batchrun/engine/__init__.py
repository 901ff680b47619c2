"""Where parts are worked: for now, all of them in this process."""
