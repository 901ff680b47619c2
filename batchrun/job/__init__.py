"""The job: what the TOML file says, checked, with every path resolved."""
