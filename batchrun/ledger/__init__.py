"""The durable store of outcomes whose part is not written yet, and of running totals."""
