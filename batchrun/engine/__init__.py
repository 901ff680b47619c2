"""Where parts are worked: in this process, or in several of this machine."""
