"""The edge to the endpoint: one attempt at a time, each ending in a reply or in classified trouble."""
